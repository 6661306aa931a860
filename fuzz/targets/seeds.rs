//! Writes the seed inputs of every target below `corpus/`, from the repository's own manifests.

fn main() -> std::io::Result<()> {
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in serin_fuzz::TARGETS {
        let folder = package.join("corpus").join(name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in serin_fuzz::seeds(&package.join(".."), name)
            .iter()
            .enumerate()
        {
            std::fs::write(folder.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}
