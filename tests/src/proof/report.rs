//! A table of targets and what was measured, with the machine, the commit and the seed.

use std::{fmt::Write as _, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::Scale;

/// What becomes of a line.
enum Verdict {
    /// Judged always.
    Count(bool),
    /// Judged by the full run only: a busy machine proves nothing.
    Figure(bool),
    /// For orientation.
    Beside,
}

struct Line {
    what: String,
    target: String,
    measured: String,
    verdict: Verdict,
}

/// A proof's lines.
pub struct Report {
    name: String,
    scale: Scale,
    seed: u64,
    only: Option<String>,
    lines: Vec<Line>,
}

impl Report {
    pub(super) fn new(name: &str, scale: Scale, only: Option<&str>) -> Self {
        Self { name: name.to_owned(), scale, seed: 1, only: only.map(str::to_owned), lines: Vec::new() }
    }

    /// Whether everything is to be run.
    pub fn is_whole(&self) -> bool {
        self.only.is_none()
    }

    /// Whether a part of this name is to be run.
    pub fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|text| part.contains(text.as_str()))
    }

    /// How much is run.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// The seed of everything random.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number that must be exactly this.
    pub fn count(&mut self, what: &str, target: u64, measured: u64) {
        self.add(what, target.to_string(), measured.to_string(), Verdict::Count(target == measured));
    }

    /// A number that must be at least this: a control, or the size of a sweep.
    pub fn at_least(&mut self, what: &str, target: u64, measured: u64) {
        self.add(what, format!("≥ {target}"), measured.to_string(), Verdict::Count(measured >= target));
    }

    /// A figure that must be at least this.
    pub fn no_less(&mut self, what: &str, unit: &str, target: f64, measured: f64) {
        let is_met = Verdict::Figure(measured >= target);
        self.add(what, format!("≥ {target} {unit}"), format!("{measured:.2} {unit}"), is_met);
    }

    /// A figure that must be at most this.
    pub fn at_most(&mut self, what: &str, unit: &str, target: f64, measured: f64) {
        let is_met = Verdict::Figure(measured <= target);
        self.add(what, format!("≤ {target} {unit}"), format!("{measured:.2} {unit}"), is_met);
    }

    /// A figure that nothing is promised of.
    pub fn beside(&mut self, what: &str, measured: String) {
        self.add(what, String::new(), measured, Verdict::Beside);
    }

    fn add(&mut self, what: &str, target: String, measured: String, verdict: Verdict) {
        let line = Line { what: what.to_owned(), target, measured, verdict };
        println!("{}", self.row(&line));
        self.lines.push(line);
    }

    fn row(&self, line: &Line) -> String {
        let verdict = match (&line.verdict, self.scale) {
            (Verdict::Count(true), _) | (Verdict::Figure(true), Scale::Full) => "met",
            (Verdict::Count(false), _) | (Verdict::Figure(false), Scale::Full) => "MISSED",
            (Verdict::Figure(_), Scale::Quick) | (Verdict::Beside, _) => "",
        };
        format!("| {:<66} | {:>14} | {:>24} | {verdict:<6} |", line.what, line.target, line.measured)
    }

    /// Says whether every target was met; writes the table when the run was a full one.
    pub(super) fn finish(self) -> Result<bool> {
        let is_met = self.lines.iter().all(|line| match line.verdict {
            Verdict::Count(is_met) => is_met,
            Verdict::Figure(is_met) => is_met || self.scale == Scale::Quick,
            Verdict::Beside => true,
        });
        if self.scale == Scale::Full && self.is_whole() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/proofs");
            fs::create_dir_all(&folder)?;
            let file = folder.join(format!("{}.md", self.name));
            fs::write(&file, self.page()).with_context(|| format!("{} cannot be written", file.display()))?;
            println!("written to docs/proofs/{}.md", self.name);
        }
        println!("{}: {}", self.name, if is_met { "every target was met" } else { "A TARGET WAS MISSED" });
        Ok(is_met)
    }

    fn page(&self) -> String {
        let mut page = format!("# {}\n\nMade by `cargo prove {}`: do not edit.\n\n", self.name, self.name);
        let _ = writeln!(page, "{}, commit {}, seed {}.\n", machine(), commit(), self.seed);
        let _ = writeln!(page, "| what | target | measured | |\n|---|---|---|---|");
        for line in &self.lines {
            let _ = writeln!(page, "{}", self.row(line));
        }
        page
    }
}

fn machine() -> String {
    let file = |path| fs::read_to_string(path).unwrap_or_default();
    let cpu = file("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown processor");
    let cores = cpu.matches("processor\t").count();
    let load = file("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("{cores} cores of {}, load {load} at the end", model.trim_start_matches([' ', '\t', ':']))
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| changes.is_empty());
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    if is_clean { commit } else { format!("{commit} with changes") }
}

/// The CPU time that this process has used, all its threads together.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The memory of this process that is in RAM, in bytes.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
