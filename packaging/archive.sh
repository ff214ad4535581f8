#!/usr/bin/env bash
# Builds weigh for a target and packs it as releases have it: the program, manual pages, completions, licences.
#   packaging/archive.sh x86_64-unknown-linux-musl      -> target/release-archives/weigh-x86_64-unknown-linux-musl.tar.gz and its .sha256
# Without a target, that of the compiler. PROFILE=release builds quicker than the published profile, dist.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-$(rustc -vV | sed -n 's/^host: //p')}
profile=${PROFILE:-dist}
cargo build --locked --profile "$profile" --target "$target" --bin weigh
folder=${CARGO_TARGET_DIR:-target}
built=$folder/$target/$profile/weigh

out=target/release-archives
name=weigh-$target
rm -rf "${out:?}/$name"
install -D -m 755 "$built" "$out/$name/bin/weigh"
install -m 644 README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$out/$name/"

# The pages and scripts come from a program that runs on this machine.
runs=$built
"$runs" --version > /dev/null 2>&1 || { cargo build --locked --bin weigh; runs=$folder/debug/weigh; }
man=$out/$name/share/man/man1
mkdir -p "$man"
"$runs" man > "$man/weigh.1"
"$runs" man --list | while read -r command; do
  # shellcheck disable=SC2086 # a subcommand is two words
  "$runs" man $command > "$man/weigh-${command// /-}.1"
done
mkdir -p "$out/$name/share/"{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
"$runs" completions bash > "$out/$name/share/bash-completion/completions/weigh"
"$runs" completions zsh > "$out/$name/share/zsh/site-functions/_weigh"
"$runs" completions fish > "$out/$name/share/fish/vendor_completions.d/weigh.fish"

# The same commit gives the same archive. tar and install are those of GNU.
tar -C "$out" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}" -cf - "$name" | gzip -n9 > "$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" > "$name.tar.gz.sha256")
echo "$out/$name.tar.gz"
