# What the scripts of a release share: one version, date, locale and mode of files, wherever and whenever they run.
# Sourced from the top of the sources.

export LC_ALL=C TZ=UTC
umask 022

version=$(sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)
# As dpkg does: the date of a build is that of the newest entry of Debian's changelog.
if [ -z "${SOURCE_DATE_EPOCH-}" ]; then
    SOURCE_DATE_EPOCH=$(date --date="$(sed -n '/^ -- /{s/^ -- .*>  //p;q}' config/debian/changelog)" +%s)
    export SOURCE_DATE_EPOCH
fi

# REASON REMEDY: ends the script.
refuse() {
    echo "${0##*/}: $1; remedy: $2" >&2
    exit 1
}

# The programs of crates.io that a release takes, with their versions: other versions may write other bytes.
mapfile -t CARGO_TOOLS < config/release/tools

# PROGRAM...: refuses unless each one is installed.
need() {
    local program tool remedy missing=()
    for program; do
        command -v "$program" > /dev/null && continue
        remedy="apt-get install ${program/#dpkg-*/dpkg}"
        for tool in "${CARGO_TOOLS[@]}"; do
            [ "${tool%%:*}" != "$program" ] || remedy="cargo install --locked ${tool/:/@}"
        done
        missing+=("$program is not installed; remedy: $remedy")
    done
    [ ${#missing[@]} = 0 ] || { printf "${0##*/}: %s\n" "${missing[@]}" >&2; exit 1; }
}

# DIR NAME...: a tar archive of these of the directory, to stdout, the same bytes for the same files.
archive() {
    tar --create --directory="$1" --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
        --owner=0 --group=0 --numeric-owner --mode=u+rw,go=rX "${@:2}"
}

# PROFILE: what packages have besides programs, in target/package: licences of crates; man pages, also packed, and
# completions, by the program of this build: from the definitions behind --help.  The directory of the profile: cargo calls
# that of `dev` target/debug.
prepare() {
    rm -rf target/package
    "${CARGO_TARGET_DIR:-target}/${1/#dev/debug}/tfo-manual" target/package
    gzip -9 --no-name --keep target/package/man/*
    config/release/notices target/package/THIRD_PARTY
}
