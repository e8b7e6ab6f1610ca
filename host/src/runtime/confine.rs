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

impl Confined {
    /// Says what the system does not enforce, once for each host.
    pub(super) fn tell_once(self) {
        static TOLD: std::sync::Once = std::sync::Once::new();
        let Self { landlock, seccomp } = self;
        if !(landlock && seccomp) {
            TOLD.call_once(|| {
                tracing::warn!(landlock, seccomp, "the compiler is not fully confined: see `tendon doctor`")
            });
        }
    }
}

/// Gives it up, for this process; there is no way back.
pub(super) fn confine(limits: &Limits) -> Result<Confined> {
    limit_resources(limits)?;
    #[cfg(target_os = "linux")]
    linux::go_first();
    #[cfg(target_os = "linux")]
    let confined = Confined { landlock: linux::landlock()?, seccomp: linux::seccomp()? };
    #[cfg(not(target_os = "linux"))]
    let confined = Confined { landlock: false, seccomp: false };
    Ok(confined)
}

fn limit_resources(limits: &Limits) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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
        // Nobody may have more than whoever started the host allowed.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        setrlimit(resource, Rlimit { current: Some(soft.min(most)), maximum: Some(hard.min(most)) })
            .map_err(|error| Error::unavailable(format!("{resource:?} cannot be limited")).because(error))?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;

    use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus, Scope};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        apply_filter,
    };

    use crate::error::{Error, Result};

    /// It ends with its host, and before it where memory runs out. Where that cannot be said it is only less sure.
    pub(super) fn go_first() {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }

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
        Ok(status.ruleset == RulesetStatus::FullyEnforced)
    }

    /// Of a computation on one thread: memory, time, and what it was given to read and to write.
    const ALLOWED: &[i64] = &[
        libc::SYS_close,
        libc::SYS_fstat,
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
        let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
        // Its input and its outputs, whatever else was left open for it, and no file in memory.
        allowed.insert(libc::SYS_read, vec![when(0, SeccompCmpOp::Eq, 0)?]);
        for call in [libc::SYS_write, libc::SYS_writev] {
            allowed.insert(call, vec![when(0, SeccompCmpOp::Eq, 1)?, when(0, SeccompCmpOp::Eq, 2)?]);
        }
        let anonymous = libc::MAP_ANONYMOUS as u64;
        allowed.insert(libc::SYS_mmap, vec![when(3, SeccompCmpOp::MaskedEq(anonymous), anonymous)?]);
        // It may end itself, as an allocator does, and nobody else.
        let me = u64::from(std::process::id());
        allowed.insert(libc::SYS_tgkill, vec![when(0, SeccompCmpOp::Eq, me)?]);
        let Ok(machine) = std::env::consts::ARCH.try_into() else { return Ok(false) };
        let filter = SeccompFilter::new(allowed, denied, SeccompAction::Allow, machine).map_err(failed)?;
        let program: BpfProgram = filter.try_into().map_err(failed)?;
        Ok(apply_filter(&program).is_ok())
    }

    fn when(argument: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value).map_err(failed)?;
        SeccompRule::new(vec![condition]).map_err(failed)
    }
}
