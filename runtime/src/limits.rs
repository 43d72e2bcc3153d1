//! How much of the machine this process may use, and how much it used.

use crate::sys;
use std::path::{Component, Path, PathBuf};

/// Processors that this process may keep busy: its affinity mask, cut down to the CPU quota of its cgroups
/// (versions 1 and 2, every level), rounded down, at least 1.
#[must_use]
pub fn allowed_cpus() -> usize {
    let quota = std::fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|groups| cgroup_quota(&groups, Path::new("/sys/fs/cgroup")));
    sys::affinity_count().min(quota.unwrap_or(usize::MAX))
}

/// Largest resident set of this process so far, in bytes.
#[must_use]
pub fn peak_rss_bytes() -> u64 {
    // The kernel's VmHWM belongs to this program alone; `getrusage` also remembers what the process was before `exec`.
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        })
        .map_or_else(sys::resource_peak_bytes, |kib| kib * 1024)
}

/// The smallest quota among the groups named in the text of `/proc/self/cgroup` and their parents, in whole
/// processors; `None` without a quota. `root` is where the cgroup file systems are mounted.
fn cgroup_quota(groups: &str, root: &Path) -> Option<usize> {
    let mut smallest = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let mounts: &[&str] = if controllers.is_empty() {
            &["", "unified"]
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            &["cpu", "cpu,cpuacct", "cpuacct,cpu"]
        } else {
            continue;
        };
        for mount in mounts {
            for level in levels(&root.join(mount), group) {
                let quota = if controllers.is_empty() {
                    quota_v2(&level)
                } else {
                    quota_v1(&level)
                };
                smallest = [smallest, quota].into_iter().flatten().min();
            }
        }
    }
    smallest
}

/// The mount and every directory on the way down to the group. A group outside the namespace (`/../x`) has no path.
fn levels(mount: &Path, group: &str) -> Vec<PathBuf> {
    let mut levels = vec![mount.to_path_buf()];
    for component in Path::new(group).components() {
        match component {
            Component::Normal(name) => levels.push(levels[levels.len() - 1].join(name)),
            Component::ParentDir => break,
            _ => {}
        }
    }
    levels
}

/// `cpu.max`: quota and period in microseconds, or `max`.
fn quota_v2(group: &Path) -> Option<usize> {
    let text = std::fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    whole_cpus(quota, period)
}

/// Two files in microseconds; a quota of -1 is none.
fn quota_v1(group: &Path) -> Option<usize> {
    let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
    whole_cpus(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

fn whole_cpus(quota: &str, period: &str) -> Option<usize> {
    let (quota, period) = (quota.parse::<usize>().ok()?, period.parse::<usize>().ok()?);
    Some(quota.checked_div(period)?.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fake cgroup file system.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn version_2_takes_the_tightest_level() {
        let root = root(&[
            ("cpu.max", "max 100000\n"),
            ("a/cpu.max", "250000 100000\n"),
            ("a/b/cpu.max", "400000 100000\n"),
        ]);
        assert_eq!(cgroup_quota("0::/a/b\n", root.path()), Some(2));
        assert_eq!(cgroup_quota("0::/\n", root.path()), None);
        assert_eq!(cgroup_quota("0::/gone\n", root.path()), None);
        assert_eq!(cgroup_quota("0::/../a\n", root.path()), None);
    }

    #[test]
    fn less_than_one_processor_is_one() {
        let root = root(&[("cpu.max", "20000 100000\n")]);
        assert_eq!(cgroup_quota("0::/\n", root.path()), Some(1));
    }

    #[test]
    fn version_1() {
        let root = root(&[
            ("cpu,cpuacct/job/cpu.cfs_quota_us", "300000\n"),
            ("cpu,cpuacct/job/cpu.cfs_period_us", "100000\n"),
            ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        let groups = "12:cpuset:/other\n4:cpu,cpuacct:/job\n1:name=systemd:/job\n";
        assert_eq!(cgroup_quota(groups, root.path()), Some(3));
        assert_eq!(cgroup_quota("4:cpu,cpuacct:/\n", root.path()), None);
    }

    #[test]
    fn nonsense_is_no_quota() {
        let root = root(&[("cpu.max", "lots 0\n"), ("z/cpu.max", "5 0\n")]);
        assert_eq!(cgroup_quota("", root.path()), None);
        assert_eq!(cgroup_quota("0::/\nrubbish\n", root.path()), None);
        assert_eq!(cgroup_quota("0::/z\n", root.path()), None);
    }

    #[test]
    fn this_process() {
        assert!(allowed_cpus() >= 1);
        assert!(peak_rss_bytes() > 100_000);
    }
}
