//! What the process that compiles gives up before it looks at a component: memory, CPU, files, the network, other programs.
//!
//! A compiler is large, and what it is given is a stranger's. Whatever it can be made to do, it can do no more than compute and
//! write to its output.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    limits::Limits,
};

/// Open files: the three that it is given, and what the runtime opens for itself.
const FILES_MAX: u64 = 16;

/// How much of it the system enforces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confined {
    /// No file, no connection: Linux 5.13 and later.
    pub landlock: bool,
    /// No system calls but those of a computation.
    pub seccomp: bool,
}

/// Gives it up, for this process and whatever it starts; there is no way back.
pub(super) fn confine(limits: &Limits) -> Result<Confined> {
    limit_resources(limits)?;
    #[cfg(target_os = "linux")]
    let confined = Confined { landlock: linux::landlock()?, seccomp: linux::seccomp()? };
    #[cfg(not(target_os = "linux"))]
    let confined = Confined { landlock: false, seccomp: false };
    Ok(confined)
}

fn limit_resources(limits: &Limits) -> Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let seconds = limits.compile_cpu.as_secs().max(1);
    let bounds = [
        (Resource::As, limits.compile_memory_bytes, limits.compile_memory_bytes),
        // The first one ends it with a signal of its own, the second one whatever it does about that.
        (Resource::Cpu, seconds, seconds.saturating_add(1)),
        (Resource::Nofile, FILES_MAX, FILES_MAX),
        (Resource::Fsize, 0, 0),
        (Resource::Core, 0, 0),
    ];
    for (resource, soft, hard) in bounds {
        setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) })
            .map_err(|error| Error::unavailable(format!("{resource:?} cannot be limited")).because(error))?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;

    use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus, Scope};
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, apply_filter};

    use crate::error::{Error, Result};

    fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::unavailable("the compiler cannot be confined").because(error)
    }

    /// No file may be opened and no connection made, as far as this kernel can enforce that.
    pub(super) fn landlock() -> Result<bool> {
        let abi = ABI::V6;
        let files = Ruleset::default().handle_access(AccessFs::from_all(abi)).map_err(failed)?;
        let network = files.handle_access(AccessNet::from_all(abi)).map_err(failed)?;
        let all = network.scope(Scope::from_all(abi)).map_err(failed)?;
        let status = all.create().and_then(landlock::RulesetCreated::restrict_self).map_err(failed)?;
        Ok(status.ruleset != RulesetStatus::NotEnforced)
    }

    /// Of a computation on one thread: memory, time, and the files that are open already.
    const ALLOWED: &[i64] = &[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_lseek,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_membarrier,
        libc::SYS_rseq,
        libc::SYS_set_robust_list,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_tgkill,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];

    /// What is not allowed fails. Not every kernel has it.
    pub(super) fn seccomp() -> Result<bool> {
        let denied = SeccompAction::Errno(libc::EPERM as u32);
        let allowed: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
        let machine = std::env::consts::ARCH.try_into().map_err(failed)?;
        let filter = SeccompFilter::new(allowed, denied, SeccompAction::Allow, machine).map_err(failed)?;
        let program: BpfProgram = filter.try_into().map_err(failed)?;
        Ok(apply_filter(&program).is_ok())
    }
}
