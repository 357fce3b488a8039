//! What goes on in the background after its request was answered, and how far it has come.
//!
//! Jobs are remembered by the instance that runs them, for as long as it runs: they can be asked for again at any time, and what they have done so
//! far is not done twice.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use serde::Serialize;
use utoipa::ToSchema;

use super::error::Problem;
use crate::{
    log::LogError,
    model::{Text, Timestamp},
};

/// Jobs that run at once. Each reads from the log as fast as it can.
const RUNNING: usize = 8;

/// Finished jobs that are remembered.
const REMEMBERED: usize = 500;

#[derive(Default)]
pub struct Jobs(Mutex<VecDeque<Arc<Job>>>);

pub struct Job {
    pub id: Text,
    /// None: of the installation.
    pub tenant: Option<Text>,
    pub started_at: Timestamp,
    pub progress: crate::settle::dead_letter::Progress,
    end: Mutex<Option<Result<(), String>>>,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Running,
    Done,
    /// Asking for the same again goes on where it ended.
    Failed,
}

impl Job {
    /// Where it is, and why it failed.
    pub fn state(&self) -> (JobState, Option<String>) {
        match &*self.end() {
            None => (JobState::Running, None),
            Some(Ok(())) => (JobState::Done, None),
            Some(Err(error)) => (JobState::Failed, Some(error.clone())),
        }
    }

    pub fn finish(&self, result: Result<(), LogError>) {
        *self.end() = Some(result.map_err(|error| error.to_string()));
    }

    fn end(&self) -> MutexGuard<'_, Option<Result<(), String>>> {
        self.end.lock().expect("nothing panics while it holds the end")
    }
}

impl Jobs {
    /// Makes a job; whoever asked for it runs it.
    pub fn begin(&self, tenant: Option<Text>, now: Timestamp) -> Result<Arc<Job>, Problem> {
        let mut jobs = self.lock();
        if jobs.iter().filter(|job| job.end().is_none()).count() >= RUNNING {
            return Err(Problem::too_many(format!("{RUNNING} jobs are running already"), 10));
        }
        while jobs.len() >= REMEMBERED {
            let Some(oldest) = jobs.iter().position(|job| job.end().is_some()) else { break };
            jobs.remove(oldest);
        }
        let id = Text::from(format!("job_{}", uuid::Uuid::now_v7().simple()));
        let job = Arc::new(Job { id, tenant, started_at: now, progress: Default::default(), end: Mutex::default() });
        jobs.push_back(Arc::clone(&job));
        Ok(job)
    }

    pub fn get(&self, id: &str) -> Option<Arc<Job>> {
        self.lock().iter().find(|job| job.id == id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Job>>> {
        self.0.lock().expect("nothing panics while it holds the jobs")
    }
}
