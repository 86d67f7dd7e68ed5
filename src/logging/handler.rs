//! Where log lines go: a stream or a file, with rotation. A line is written with one write call.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::format::Format;
use super::level::Level;
use super::record::Record;
use super::schedule::Schedule;
use super::settings::{HandlerSettings, Rotation, Target};

/// A place for log lines, open for writing.
#[derive(Debug)]
pub struct Handler {
    level: Level,
    format: Format,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Stdout,
    Stderr,
    File(LogFile),
}

impl Handler {
    /// Opens what `settings` say.
    pub fn open(settings: &HandlerSettings) -> io::Result<Self> {
        let sink = match &settings.target {
            Target::Stdout => Sink::Stdout,
            Target::Stderr => Sink::Stderr,
            Target::File { path, delay, rotation } => Sink::File(LogFile::open(path, *delay, rotation)?),
        };
        Ok(Self { level: settings.level, format: settings.format.clone(), sink })
    }

    /// Writes `record`, unless it is below this handler's level.
    pub fn handle(&mut self, record: &Record<'_>) -> io::Result<()> {
        if record.level < self.level {
            return Ok(());
        }
        let mut line = String::with_capacity(record.message.len() + 80);
        self.format.write(record, &mut line);
        line.push('\n');
        match &mut self.sink {
            Sink::Stdout => io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush()),
            Sink::Stderr => io::stderr().write_all(line.as_bytes()),
            Sink::File(file) => file.write(line.as_bytes(), record.created),
        }
    }

    /// Opens the file again, since someone may have renamed it. A file that rotates does so now.
    pub fn reopen(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Stdout | Sink::Stderr => Ok(()),
            Sink::File(file) => file.reopen(SystemTime::now()),
        }
    }
}

/// A log file.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    delay: bool,
    rotation: Rotation,
    /// `None` until the first line, with `delay`.
    file: Option<File>,
    /// When the next rotation by the clock is due.
    due: Option<SystemTime>,
}

impl LogFile {
    fn open(path: &Path, delay: bool, rotation: &Rotation) -> io::Result<Self> {
        let due = match rotation {
            Rotation::Time { schedule, .. } => {
                let written = fs::metadata(path).and_then(|metadata| metadata.modified());
                Some(schedule.next(written.unwrap_or_else(|_| SystemTime::now())))
            }
            Rotation::None | Rotation::Size { .. } => None,
        };
        let file = if delay { None } else { Some(append_to(path)?) };
        Ok(Self { path: path.to_owned(), delay, rotation: rotation.clone(), file, due })
    }

    fn write(&mut self, line: &[u8], now: SystemTime) -> io::Result<()> {
        if self.is_rotation_due(line.len(), now)? {
            self.rotate(now)?;
        }
        self.opened()?.write_all(line)
    }

    fn opened(&mut self) -> io::Result<&mut File> {
        match &mut self.file {
            Some(file) => Ok(file),
            empty => Ok(empty.insert(append_to(&self.path)?)),
        }
    }

    fn is_rotation_due(&mut self, line_length: usize, now: SystemTime) -> io::Result<bool> {
        // What is no regular file, such as /dev/null, is never renamed.
        let is_regular = || fs::metadata(&self.path).map_or(true, |metadata| metadata.is_file());
        match self.rotation {
            Rotation::None => Ok(false),
            Rotation::Time { .. } => Ok(self.due.is_some_and(|due| now >= due) && is_regular()),
            Rotation::Size { max_bytes, .. } => {
                if max_bytes == 0 || !is_regular() {
                    return Ok(false);
                }
                let length = self.opened()?.metadata()?.len();
                let line_length = u64::try_from(line_length).unwrap_or(u64::MAX);
                // An empty file makes no room: renaming it would only push a full one out.
                Ok(length > 0 && length.saturating_add(line_length) >= max_bytes)
            }
        }
    }

    fn reopen(&mut self, now: SystemTime) -> io::Result<()> {
        if self.rotation != Rotation::None {
            return self.rotate(now);
        }
        self.reopened()
    }

    /// Opens the path anew. If that fails, lines go on into the file that is open.
    fn reopened(&mut self) -> io::Result<()> {
        if !self.delay || self.file.is_some() {
            let file = append_to(&self.path)?;
            self.file = Some(file);
        }
        Ok(())
    }

    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        match &self.rotation {
            Rotation::None => {}
            Rotation::Size { old_files, .. } => shift(&self.path, *old_files)?,
            Rotation::Time { schedule, old_files } => {
                let due = self.due.unwrap_or(now);
                let old = with_suffix(&self.path, &schedule.suffix(due));
                // A second rotation of the same interval, on demand, must not replace the first one.
                if !old.exists() {
                    rename_existing(&self.path, &old)?;
                }
                remove_oldest(&self.path, schedule, *old_files)?;
                self.due = Some(schedule.next(now));
            }
        }
        self.reopened()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Renames `path.1` to `path.2` and so on, dropping the last, then `path` to `path.1`.
fn shift(path: &Path, old_files: u32) -> io::Result<()> {
    for number in (1..old_files).rev() {
        let next = number.saturating_add(1);
        rename_existing(&with_suffix(path, &number.to_string()), &with_suffix(path, &next.to_string()))?;
    }
    rename_existing(path, &with_suffix(path, "1"))
}

fn rename_existing(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes all but the newest `keep` files that [`Schedule::suffix`] has named.
fn remove_oldest(path: &Path, schedule: &Schedule, keep: u32) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(prefix) = path.file_name().and_then(|name| name.to_str()).map(|name| format!("{name}.")) else {
        return Ok(());
    };
    let mut old = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let suffix = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        if suffix.is_some_and(|suffix| schedule.is_suffix(suffix)) {
            old.push(entry.path());
        }
    }
    // The suffixes sort as their times do.
    old.sort();
    let surplus = old.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
    for path in old.iter().take(surplus) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(message: &str, level: Level, created: SystemTime) -> Record<'_> {
        Record { name: "ZEO", level, message, file: "", line: 0, created }
    }

    fn handler(path: &Path, delay: bool, rotation: Rotation) -> Handler {
        let format = Format::compile(super::super::Style::Classic, "%(message)s", "").unwrap();
        let target = Target::File { path: path.to_owned(), delay, rotation };
        Handler::open(&HandlerSettings { level: Level::INFO, format, target }).unwrap()
    }

    fn say(handler: &mut Handler, message: &str) {
        handler.handle(&record(message, Level::INFO, SystemTime::now())).unwrap();
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn lines_are_appended_and_levels_hold() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "old\n").unwrap();
        let mut handler = handler(&path, false, Rotation::None);
        say(&mut handler, "a");
        handler.handle(&record("b", Level::DEBUG, SystemTime::now())).unwrap();
        assert_eq!(read(&path), "old\na\n");
    }

    #[test]
    fn a_renamed_file_is_left_alone_after_reopen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut handler = handler(&path, true, Rotation::None);
        assert!(!path.exists());
        say(&mut handler, "a");
        fs::rename(&path, directory.path().join("moved")).unwrap();
        say(&mut handler, "b");
        handler.reopen().unwrap();
        say(&mut handler, "c");
        assert_eq!(read(&directory.path().join("moved")), "a\nb\n");
        assert_eq!(read(&path), "c\n");
    }

    #[test]
    fn size_rotation_numbers_old_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut handler = handler(&path, false, Rotation::Size { max_bytes: 8, old_files: 2 });
        for message in ["aaaaaa", "bbb", "ccc", "ddd", "eee"] {
            say(&mut handler, message);
        }
        assert_eq!(read(&path), "eee\n");
        assert_eq!(read(&directory.path().join("log.1")), "ddd\n");
        assert_eq!(read(&directory.path().join("log.2")), "ccc\n");
        assert!(!directory.path().join("log.3").exists());
        handler.reopen().unwrap();
        assert_eq!(read(&path), "");
        assert_eq!(read(&directory.path().join("log.1")), "eee\n");
    }

    #[test]
    fn time_rotation_names_old_files_by_their_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let schedule = Schedule::parse("H", 1).unwrap();
        let mut handler = handler(&path, false, Rotation::Time { schedule: schedule.clone(), old_files: 2 });
        let start = SystemTime::now();
        for hours in 0..5 {
            let now = start + Duration::from_secs(hours * 3601 + 1);
            handler.handle(&record(&hours.to_string(), Level::INFO, now)).unwrap();
        }
        assert_eq!(read(&path), "4\n");
        let old: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(old.len(), 3, "{old:?}");
    }
}
