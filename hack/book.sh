#!/usr/bin/env bash
# Makes target/book, an mdBook of the pages that docs/SUMMARY.md lists. Pages of other folders (README, examples, chart) belong to it too, so
# they are brought together under target/book-source with the paths that they have in the repository, by which links go on working.
# usage: hack/book.sh VERSION-OF-MDBOOK
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1
tool=.tools/bin/mdbook
if [ "$("$tool" --version 2>/dev/null)" != "mdbook v$version" ]; then
    echo "building mdbook $version into .tools (minutes, once)"
    cargo install mdbook --version "$version" --locked --no-default-features --features search --root .tools
fi
source=target/book-source
rm -rf "$source" target/book
mkdir -p "$source"
git ls-files -z -- '*.md' docs examples LICENSE | while IFS= read -r -d '' file; do
    mkdir -p "$source/$(dirname "$file")"
    cp "$file" "$source/$file"
done
# mdBook calls the page of a README index, and has a page of its own for the table of contents.
find "$source" -name '*.md' -exec sed -i -E 's#\]\(([^):]*)README\.md#](\1index.md#g; s#\]\(docs/SUMMARY\.md\)#](toc.html)#g' {} +
# Paths of the table of contents count from the root there.
sed -E 's#\]\(\.\./#](ROOT/#; s#\]\(([^R][^)]*)\)#](docs/\1)#; s#\]\(ROOT/#](#' docs/SUMMARY.md >"$source/SUMMARY.md"
rm "$source/docs/SUMMARY.md"
cp book.toml "$source/"
"$tool" build "$source" --dest-dir "$PWD/target/book"
echo "target/book/index.html"
