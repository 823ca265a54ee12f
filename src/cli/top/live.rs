//! The terminal while it is watched.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::app::{App, Step};
use super::{draw, look};
use crate::cli::admin_client::{Listener, Problem, runtime};
use crate::cli::overview::Overview;

/// What the threads send.
enum News {
    /// An overview, or why there is none.
    Overview(Box<Result<Overview, String>>),
    /// A key.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// It is to end, for this reason where something failed.
    End(Option<String>),
}

/// The screen of the terminal; whatever was there before comes back when it is dropped.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Watches until the user leaves or a signal comes.
///
/// # Errors
/// When the terminal does not do what is asked of it.
pub fn watch(mut app: App, listener: Listener, interval: Duration, colour: bool) -> Result<(), Problem> {
    let (sender, news) = channel();
    // Before the terminal is touched: a signal that nobody waits for would end us with it in our hands.
    let signals = Signals::listen()?;
    spawn("signals", &sender, move |sender| signals.wait(sender))?;
    // A panic gives the terminal back, too: `try_init` sees to that.
    let mut screen = Screen(ratatui::try_init().map_err(failed)?);
    spawn("keys", &sender, read_keys)?;
    spawn("overview", &sender, move |sender| ask(&listener, interval, sender))?;
    drop(sender);
    let ended = follow(&mut app, &mut screen, &news, colour);
    drop(screen);
    ended
}

fn failed(error: impl std::fmt::Display) -> Problem {
    Problem::Here(format!("the terminal: {error}"))
}

fn spawn(name: &str, sender: &Sender<News>, work: impl FnOnce(&Sender<News>) + Send + 'static) -> Result<(), Problem> {
    let sender = sender.clone();
    let begun = thread::Builder::new().name(name.to_owned()).spawn(move || work(&sender));
    begun.map(|_| ()).map_err(|error| Problem::Here(format!("cannot start: {error}")))
}

fn follow(app: &mut App, screen: &mut Screen, news: &Receiver<News>, colour: bool) -> Result<(), Problem> {
    loop {
        screen.0.draw(|frame| draw::screen(frame.area(), frame.buffer_mut(), app, colour)).map_err(failed)?;
        // All that has come by now is one picture.
        let Ok(first) = news.recv() else { return Ok(()) };
        for one in std::iter::once(first).chain(news.try_iter()) {
            match one {
                News::Overview(seen) => app.take(*seen),
                News::Key(key) if app.key(key) == Step::Quit => return Ok(()),
                News::Key(_) | News::Resized => {}
                News::End(None) => return Ok(()),
                News::End(Some(error)) => return Err(failed(error)),
            }
        }
    }
}

/// Asks until nobody listens.
fn ask(listener: &Listener, interval: Duration, sender: &Sender<News>) {
    loop {
        thread::sleep(interval);
        let seen = look(listener).map_err(|problem| first_line(&problem.text()));
        if sender.send(News::Overview(Box::new(seen))).is_err() {
            return;
        }
    }
}

/// There is room for one line; the hint behind it is for those who are not looking on.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn read_keys(sender: &Sender<News>) {
    loop {
        let news = match event::read() {
            Ok(Event::Key(key)) => News::Key(key),
            Ok(Event::Resize(..)) => News::Resized,
            Ok(_) => continue,
            Err(error) => News::End(Some(error.to_string())),
        };
        let over = matches!(news, News::End(_));
        if sender.send(news).is_err() || over {
            return;
        }
    }
}

/// The signals that end us.
struct Signals {
    runtime: Runtime,
    awaited: [Signal; 3],
}

impl Signals {
    fn listen() -> Result<Self, Problem> {
        let runtime = runtime()?;
        let entered = runtime.enter();
        let kinds = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()];
        let [terminate, hangup, interrupt] = kinds.map(signal);
        let awaited = [terminate.map_err(failed)?, hangup.map_err(failed)?, interrupt.map_err(failed)?];
        drop(entered);
        Ok(Self { runtime, awaited })
    }

    fn wait(self, sender: &Sender<News>) {
        let [mut terminate, mut hangup, mut interrupt] = self.awaited;
        self.runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        // Whoever does not listen any more has ended already.
        drop(sender.send(News::End(None)));
    }
}
