//! The image of the token, `FROM scratch`: the programs and libraries are this machine's own, so that no registry is asked.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use frostkeep_fixtures::softhsm_module;
use testcontainers::core::BuildImageOptions;
use testcontainers::runners::AsyncBuilder;
use testcontainers::{GenericBuildableImage, GenericImage};

use crate::Failed;

const NAME: &str = "frostkeep-softhsm";
const ENTRY: &str = include_str!("../../../hsm/fixtures/container/entry");
const CONFIGURATION: &str = include_str!("../../../hsm/fixtures/container/softhsm2.conf");

const DOCKERFILE: &str = "FROM scratch\n\
     LABEL frostkeep.test.image=softhsm\n\
     COPY rootfs/ /\n\
     COPY softhsm2.conf /etc/softhsm/softhsm2.conf\n\
     COPY entry /entry\n\
     WORKDIR /var/lib/softhsm/tokens\n\
     ENTRYPOINT [\"/bin/sh\", \"/entry\"]\n";

/// What the entry script runs and what that runs in turn, with the package that has it. `p11-kit` knows its two by their place.
const PROGRAMS: [(&str, &str); 9] = [
    ("/bin/sh", "dash"),
    ("/bin/rm", "coreutils"),
    ("/bin/chmod", "coreutils"),
    ("/bin/sleep", "coreutils"),
    ("/usr/bin/softhsm2-util", "softhsm2"),
    ("/usr/bin/socat", "socat"),
    ("/usr/bin/p11-kit", "p11-kit"),
    ("/usr/libexec/p11-kit/p11-kit-server", "p11-kit"),
    ("/usr/libexec/p11-kit/p11-kit-remote", "p11-kit"),
];

/// Where the entry script has the module.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// The root file system: each path with the file of this machine that goes there.
///
/// # Errors
/// Names what is not installed.
pub fn root_file_system() -> Result<BTreeMap<String, PathBuf>, Failed> {
    let mut files = BTreeMap::from([(MODULE.to_owned(), softhsm_module()?)]);
    for (program, package) in PROGRAMS {
        if !Path::new(program).exists() {
            return Err(format!("{program} is not installed: apt-get install {package}").into());
        }
        files.insert(program.to_owned(), program.into());
    }
    let linked = Command::new("ldd").args(files.values()).output()?;
    if !linked.status.success() {
        return Err(format!("ldd: {}", String::from_utf8_lossy(&linked.stderr)).into());
    }
    // "name => /path (0x..)", or for the loader "/path (0x..)". Without a path it is the kernel's.
    for line in String::from_utf8_lossy(&linked.stdout).lines().filter(|line| line.starts_with('\t')) {
        if line.contains("not found") {
            return Err(format!("ldd: {}", line.trim()).into());
        }
        if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
            files.insert(path.to_owned(), path.into());
        }
    }
    Ok(files)
}

/// The same files under the same recipe have the same tag.
fn tag(files: &BTreeMap<String, PathBuf>) -> io::Result<String> {
    let mut hasher = DefaultHasher::new();
    (DOCKERFILE, ENTRY, CONFIGURATION).hash(&mut hasher);
    for (target, source) in files {
        let file = fs::metadata(source)?;
        (target, file.size(), file.mtime(), file.mtime_nsec()).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Builds the image, unless the engine has it.
///
/// # Errors
/// What is not installed, or what the engine says.
pub async fn build() -> Result<GenericImage, Failed> {
    let files = root_file_system()?;
    let mut image = GenericBuildableImage::new(NAME, tag(&files)?)
        .with_dockerfile_string(DOCKERFILE)
        .with_data(ENTRY, "entry")
        .with_data(CONFIGURATION, "softhsm2.conf");
    for (target, source) in files {
        image = image.with_file(source, format!("rootfs{target}"));
    }
    Ok(image.build_image_with(BuildImageOptions::new().with_skip_if_exists(true)).await?)
}
