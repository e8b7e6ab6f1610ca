//! Who runs shards, and whether that process is still there.

use std::{
    fmt,
    fs::{read_link, read_to_string},
    sync::{Arc, LazyLock},
};

/// A process that runs shards, as text for the operator: `db-7 pid 4711 since 8812345 of boot 0a1b2c3d in pid:[4026531836]`.
/// Empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner(pub Arc<str>);

/// What tells a process of this machine from all others, those before a reboot and those of other containers included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process<'a> {
    machine: &'a str,
    pid: &'a str,
    /// In the kernel's ticks since it booted: numbers of processes are used again.
    started: &'a str,
    boot: &'a str,
    /// Whose numbers those of its processes are: containers have their own.
    namespace: &'a str,
}

impl Owner {
    /// This process. Where the system does not tell what it takes (it is read from Linux's /proc) it has only a number.
    pub fn this_process() -> Self {
        static TEXT: LazyLock<Arc<str>> = LazyLock::new(|| {
            let pid = std::process::id();
            let (Some([machine, boot, namespace]), Some(started)) = (machine(), started(&pid.to_string())) else {
                return format!("pid {pid}").into();
            };
            format!("{machine} pid {pid} since {started} of boot {boot} in {namespace}").into()
        });
        Self(TEXT.clone())
    }

    /// Whether it ran on this machine, since it booted, and is no more. A process of another machine, or of another container,
    /// may well be there: nobody here can tell.
    pub fn has_died(&self) -> bool {
        let (Some(process), Some([machine, boot, namespace])) = (self.process(), machine()) else { return false };
        process.machine == machine
            && process.boot == boot
            && process.namespace == namespace
            && started(process.pid).is_none_or(|started| started != process.started)
    }

    fn process(&self) -> Option<Process<'_>> {
        match self.0.split(' ').collect::<Vec<_>>().as_slice() {
            &[machine, "pid", pid, "since", started, "of", "boot", boot, "in", namespace] => {
                Some(Process { machine, pid, started, boot, namespace })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// This machine's name and boot, and whose processes are seen from here.
fn machine() -> Option<[String; 3]> {
    let read = |path: &str| Some(read_to_string(path).ok()?.trim().to_owned()).filter(|text| !text.is_empty());
    let name = read("/proc/sys/kernel/hostname")?;
    let boot = read("/proc/sys/kernel/random/boot_id")?;
    let namespace = read_link("/proc/self/ns/pid").ok()?.to_str()?.to_owned();
    Some([name, boot, namespace]).filter(|[name, ..]| !name.contains(' '))
}

/// When a process was started; none where there is no such process, or only what its parent has yet to notice of its end. The
/// name of its program, in parentheses, may hold whatever it likes.
fn started(pid: &str) -> Option<String> {
    const FIELD_AFTER_STATE: usize = 18;
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let is_there = !matches!(fields.next()?, "Z" | "X");
    fields.nth(FIELD_AFTER_STATE).filter(|_| is_there).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_of_this_boot_of_this_machine_that_is_gone_has_died() {
        let [machine, boot, namespace] = machine().unwrap();
        let this = Owner::this_process();
        let (own_pid, own_start) = (std::process::id(), started("self").unwrap());
        let of = |machine: &str, pid: u32, started: &str, boot: &str| {
            Owner(format!("{machine} pid {pid} since {started} of boot {boot} in {namespace}").into()).has_died()
        };
        let elsewhere = format!("{machine} pid {} since 1 of boot {boot} in pid:[1]", u32::MAX);
        assert!(!Owner(elsewhere.into()).has_died(), "another container");
        assert!(!this.has_died() && !of(&machine, own_pid, &own_start, &boot));
        assert!(of(&machine, own_pid, "1", &boot), "an earlier process with the same number");
        assert!(of(&machine, u32::MAX, "1", &boot), "there is no such process");
        assert!(!of("another", u32::MAX, "1", &boot), "another machine");
        assert!(!of(&machine, u32::MAX, "1", "another"), "before this machine was booted");
        for text in ["", "pid 4711", "a test"] {
            assert!(!Owner(text.into()).has_died(), "nobody can tell");
        }
    }
}
