//! Tries what a compiler may not do, before and after it has confined itself, and says what came of it.

use std::{
    fs::{self, File},
    io::{self, Read},
    net::{TcpListener, TcpStream},
    process::{Command, ExitCode},
    thread,
};

use tendon::{limits::Limits, runtime::serve_compiler};

/// What it is given in place of a component: it is asked for that once it is confined.
struct Probe {
    port: u16,
}

impl Read for Probe {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        tell("confined", self.port);
        Ok(0)
    }
}

fn main() -> ExitCode {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    tell("free", port);
    match serve_compiler(&Limits::default(), Probe { port }, io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One line: what is possible.
fn tell(when: &str, port: u16) {
    let scratch = std::env::args().nth(1).unwrap();
    let parent = std::os::unix::process::parent_id();
    let me = std::process::id();
    let tried: [(&str, bool); 10] = [
        ("compute", (0..1_000_u32).map(|n| n.to_string()).collect::<Vec<_>>().len() == 1_000),
        ("thread", thread::Builder::new().spawn(|| ()).is_ok_and(|thread| thread.join().is_ok())),
        (
            "signal",
            Command::new("kill").args(["-0", &parent.to_string()]).status().is_ok_and(|status| status.success()),
        ),
        ("memory", File::open(format!("/proc/{me}/mem")).is_ok()),
        ("read", File::open("/etc/passwd").is_ok()),
        ("list", fs::read_dir("/").is_ok()),
        ("write", fs::write(&scratch, "x").is_ok()),
        ("connect", TcpStream::connect(("127.0.0.1", port)).is_ok()),
        ("listen", TcpListener::bind("127.0.0.1:0").is_ok()),
        ("run", Command::new("/bin/true").spawn().is_ok_and(|mut child| child.wait().is_ok())),
    ];
    let possible: Vec<&str> = tried.iter().filter(|(_, is_possible)| *is_possible).map(|(what, _)| *what).collect();
    eprintln!("{when}: {}", possible.join(" "));
}
