//! Mapped files: the model itself and its external data. This crate's only unsafe.
//!
//! Law: external data is read only from regular files that lie, after all links are followed, in the model's folder.
//! Each file is mapped once; a tensor is a slice of the mapping.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::Fault;
use crate::proto::StringStringEntryProto;

/// Maps a regular file.
pub(crate) fn map_file(path: &Path) -> Result<Bytes, Fault> {
    let fail = |e: std::io::Error| Fault::io(format!("`{}`: {e}", path.display()));
    // Before opening: opening a pipe would wait for a writer.
    let meta = fs::metadata(path).map_err(fail)?;
    if !meta.is_file() {
        return Err(Fault::io(format!("`{}` is not a regular file", path.display())));
    }
    if meta.len() == 0 {
        return Ok(Bytes::new());
    }
    let file = File::open(path).map_err(fail)?;
    #[expect(unsafe_code, reason = "weights of gigabytes are mapped, not read")]
    // SAFETY: the mapping is read-only and private to this process. Changing the file meanwhile is the one thing that
    // the caller must not do, as `import` documents; all bytes are treated as data whatever they are.
    let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
    Ok(Bytes::from_owner(map))
}

/// The files that a model's tensors refer to.
#[derive(Debug)]
pub(crate) struct ExternalFiles {
    folder: Option<PathBuf>,
    /// By location as written; `None` after a failure, which is reported once.
    maps: BTreeMap<String, Option<Bytes>>,
}

impl ExternalFiles {
    pub fn new(folder: Option<&Path>) -> Self {
        Self {
            folder: folder.map(Path::to_path_buf),
            maps: BTreeMap::new(),
        }
    }

    /// The bytes that a tensor's `external_data` entries name.
    pub fn slice(&mut self, entries: &[StringStringEntryProto]) -> Result<Bytes, Fault> {
        let entry = |key: &str| entries.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(v) => v
                .parse::<u64>()
                .map(Some)
                .map_err(|_| Fault::invalid(format!("external data: `{key}` is not a number: `{v}`"))),
        };
        let Some(location) = entry("location") else {
            return Err(Fault::invalid("external data has no `location`"));
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let file = self.file(location)?;
        let size = file.len() as u64;
        let end = match length {
            Some(n) => offset.checked_add(n),
            None => Some(size),
        };
        match end {
            Some(end) if offset <= end && end <= size => Ok(file.slice(offset as usize..end as usize)),
            _ => Err(Fault::invalid(format!(
                "external data: offset {offset}, length {} is outside `{location}`, which has {size} bytes",
                length.map_or("to the end".to_owned(), |n| n.to_string())
            ))
            .hint("the external data file is incomplete or belongs to another model")),
        }
    }

    fn file(&mut self, location: &str) -> Result<Bytes, Fault> {
        match self.maps.get(location) {
            Some(Some(b)) => return Ok(b.clone()),
            Some(None) => {
                let mut again = Fault::io("external data file failed before");
                again.repeated = true;
                return Err(again);
            }
            None => {}
        }
        let map = self
            .resolve(location)
            .and_then(|p| map_file(&p).map_err(|f| f.of("external data")));
        self.maps.insert(location.to_owned(), map.as_ref().ok().cloned());
        map
    }

    fn resolve(&self, location: &str) -> Result<PathBuf, Fault> {
        let refuse = |why: &str| {
            Err(
                Fault::invalid(format!("external data: location `{}` {why}", location.escape_debug()))
                    .hint("external data must lie in the model's folder; save the model again with `onnx.save`"),
            )
        };
        let Some(folder) = &self.folder else {
            return Err(Fault::unsupported(
                "external data needs a model file, not bytes in memory",
            ));
        };
        if location.is_empty() {
            return refuse("is empty");
        }
        if location.contains('\0') {
            return refuse("contains a NUL");
        }
        let relative = Path::new(location);
        for part in relative.components() {
            match part {
                Component::Normal(_) | Component::CurDir => {}
                Component::ParentDir => return refuse("contains `..`"),
                Component::RootDir | Component::Prefix(_) => return refuse("is absolute"),
            }
        }
        let fail = |e: std::io::Error| {
            Fault::io(format!("external data: `{}`: {e}", folder.join(relative).display()))
                .hint("the file that holds the weights must lie beside the model")
        };
        let root = folder.canonicalize().map_err(fail)?;
        let path = root.join(relative).canonicalize().map_err(fail)?;
        if !path.starts_with(&root) {
            return refuse("leaves the model's folder through a link");
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ProblemKind;

    fn entries(list: &[(&str, &str)]) -> Vec<StringStringEntryProto> {
        list.iter()
            .map(|(k, v)| StringStringEntryProto {
                key: (*k).into(),
                value: (*v).into(),
            })
            .collect()
    }

    #[test]
    fn slices_are_checked_against_the_file() {
        let dir = tempfile::tempdir().expect("folder");
        fs::write(dir.path().join("w.bin"), [0, 1, 2, 3, 4, 5, 6, 7]).expect("write");
        let mut files = ExternalFiles::new(Some(dir.path()));
        let mut get = |list: &[(&str, &str)]| files.slice(&entries(list));
        let at = |o, n| [("location", "w.bin"), ("offset", o), ("length", n)];
        assert_eq!(get(&at("2", "3")).expect("inside")[..], [2, 3, 4]);
        assert_eq!(get(&at("8", "0")).expect("empty")[..], [] as [u8; 0]);
        assert_eq!(get(&[("location", "./w.bin")]).expect("whole").len(), 8);
        assert_eq!(get(&[("location", "w.bin"), ("offset", "5")]).expect("rest").len(), 3);
        for (o, n) in [
            ("6", "3"),
            ("9", "0"),
            ("18446744073709551615", "2"),
            ("-1", "2"),
            ("0", "x"),
        ] {
            assert_eq!(get(&at(o, n)).expect_err(o).kind, ProblemKind::Invalid, "{o} {n}");
        }
        assert!(get(&[("offset", "0")]).is_err());
    }

    #[test]
    fn paths_cannot_leave_the_folder() {
        let dir = tempfile::tempdir().expect("folder");
        let inner = dir.path().join("model");
        fs::create_dir(&inner).expect("create");
        fs::write(dir.path().join("secret"), [1]).expect("write");
        fs::write(inner.join("ok"), [1]).expect("write");
        let mut files = ExternalFiles::new(Some(&inner));
        let mut get = |l: &str| {
            files
                .slice(&entries(&[("location", l)]))
                .map_err(|f| (f.kind, f.message))
        };
        assert!(get("ok").is_ok());
        let absolute = dir.path().join("secret");
        for bad in [
            "../secret",
            "a/../../secret",
            "",
            "x\0y",
            absolute.to_str().expect("text"),
        ] {
            assert_eq!(get(bad).expect_err(bad).0, ProblemKind::Invalid, "{bad:?}");
        }
        assert_eq!(get("missing").expect_err("missing").0, ProblemKind::Io);
        assert_eq!(get(".").expect_err("a folder").0, ProblemKind::Io);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../secret", inner.join("out")).expect("link");
            std::os::unix::fs::symlink("ok", inner.join("in")).expect("link");
            assert!(get("in").is_ok());
            let (kind, message) = get("out").expect_err("leaves");
            assert_eq!(kind, ProblemKind::Invalid);
            assert!(message.contains("through a link"), "{message}");
        }
    }

    #[test]
    fn a_missing_file_is_reported_once() {
        let dir = tempfile::tempdir().expect("folder");
        let mut files = ExternalFiles::new(Some(dir.path()));
        let e = entries(&[("location", "w.bin")]);
        assert!(!files.slice(&e).expect_err("missing").repeated);
        assert!(files.slice(&e).expect_err("missing").repeated);
    }
}
