use super::*;
use crate::clock;
use crate::fleet::jobs::words::Target;
use crate::fleet::server::Identity;

fn order(work: Work, model: &str, servers: &[&str], parallel: usize) -> Order {
    let target = |name: &&str| Target {
        id: (*name).to_owned(),
        identity: Identity { upstream: "fleet".to_owned(), name: (*name).to_owned(), url: (*name).to_owned() },
        estimate: None,
        left_out: None,
    };
    let targets = servers.iter().map(target).collect();
    Order {
        work,
        model: canonical(model).into_owned(),
        written: model.to_owned(),
        targets,
        parallel,
        who: String::new(),
    }
}

fn states(book: &Book, id: JobId) -> Vec<&'static str> {
    book.get(id).unwrap().rows.iter().map(|row| row.state.as_str()).collect()
}

#[test]
fn no_more_servers_at_a_time_than_wanted() {
    let (mut book, now) = (Book::default(), clock::now());
    let id = book.add(order(Work::Pull, "m", &["a", "b", "c"], 2), now).unwrap();
    assert_eq!(book.get(id).unwrap().state(), "waiting");
    let first = book.begin(now).unwrap();
    assert!(book.begin(now).is_some());
    assert!(book.begin(now).is_none());
    assert_eq!(states(&book, id), ["running", "running", "waiting"]);
    book.finish(first.id, Ok(None), now);
    assert_eq!(book.begin(now).unwrap().server.name, "c");
    book.finish(TaskId { job: id, row: 1 }, Err("no".to_owned()), now);
    assert!(book.get(id).unwrap().ended.is_none());
    book.finish(TaskId { job: id, row: 2 }, Ok(None), now);
    assert_eq!((states(&book, id), book.get(id).unwrap().state()), (vec!["done", "failed", "done"], "failed"));
    assert!(book.get(id).unwrap().ended.is_some());
}

#[test]
fn the_same_work_is_done_once_and_both_are_told() {
    let (mut book, now) = (Book::default(), clock::now());
    let one = book.add(order(Work::Pull, "m", &["a"], 2), now).unwrap();
    let task = book.begin(now).unwrap();
    let two = book.add(order(Work::Pull, "m", &["a", "b"], 2), now).unwrap();
    assert_eq!(book.begin(now).unwrap().server.name, "b");
    assert!(book.begin(now).is_none());
    let told = Progress { status: "pulling".to_owned(), completed: 1, total: 2 };
    book.progress(task.id, &told, now);
    assert_eq!(book.get(two).unwrap().rows[0].progress, told);
    book.finish(task.id, Err("no".to_owned()), now);
    assert_eq!((states(&book, one), states(&book, two)), (vec!["failed"], vec!["failed", "running"]));
}

#[test]
fn who_relied_on_a_job_that_is_cancelled_does_the_work_itself() {
    let (mut book, now) = (Book::default(), clock::now());
    let one = book.add(order(Work::Pull, "m", &["a"], 2), now).unwrap();
    let task = book.begin(now).unwrap();
    let two = book.add(order(Work::Pull, "m", &["a"], 2), now).unwrap();
    assert_eq!(book.cancel(one, now), Some(vec![task.id]));
    assert_eq!(book.begin(now).unwrap().id, TaskId { job: two, row: 0 });
    // What it says when it is ended changes nothing.
    book.finish(task.id, Ok(None), now);
    assert_eq!((states(&book, one), states(&book, two)), (vec!["cancelled"], vec!["running"]));
    assert_eq!(book.cancel(99, now), None);
}

#[test]
fn other_work_on_the_same_model_of_a_server_waits() {
    let (mut book, now) = (Book::default(), clock::now());
    book.add(order(Work::Pull, "m", &["a"], 1), now).unwrap();
    let task = book.begin(now).unwrap();
    let copy = Work::Copy { destination: "library/M:latest".to_owned(), force: false };
    book.add(order(copy, "n", &["a"], 1), now).unwrap();
    book.add(order(Work::Delete { force: false }, "m:latest", &["a", "b"], 2), now).unwrap();
    assert_eq!(book.begin(now).unwrap().server.name, "b");
    assert!(book.begin(now).is_none());
    book.finish(task.id, Ok(None), now);
    assert_eq!(book.begin(now).unwrap().work.as_str(), "copy");
    assert!(book.begin(now).is_none());
}

#[test]
fn what_is_left_out_is_over_at_once() {
    let (mut book, now) = (Book::default(), clock::now());
    let mut order = order(Work::Pull, "m", &["a"], 1);
    order.targets[0].left_out = Some("draining".to_owned());
    let id = book.add(order, now).unwrap();
    assert_eq!((states(&book, id), book.get(id).unwrap().state()), (vec!["skipped"], "skipped"));
    assert!(book.begin(now).is_none());
}

#[test]
fn jobs_and_what_runs_are_bounded() {
    let (mut book, now) = (Book::default(), clock::now());
    let names: Vec<String> = (0..RUNNING + 5).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let many = book.add(order(Work::Pull, "m", &names, usize::MAX), now).unwrap();
    assert_eq!(std::iter::from_fn(|| book.begin(now)).count(), RUNNING);
    for _ in 1..ACTIVE {
        book.add(order(Work::Pull, "n", &["a"], 1), now).unwrap();
    }
    assert_eq!(book.add(order(Work::Pull, "n", &["a"], 1), now), Err(Full));
    book.cancel(many, now);
    for _ in 0..2 * KEPT {
        let id = book.add(order(Work::Unload { force: false }, "x", &["a"], 1), now).unwrap();
        book.cancel(id, now);
    }
    assert!(book.jobs().count() < KEPT + ACTIVE + 1, "{}", book.jobs().count());
    assert_eq!(book.jobs().filter(|job| job.ended.is_none()).count(), ACTIVE - 1);
}
