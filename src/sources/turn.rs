//! (being written)

pub(super) struct Source;

impl Source {
    pub(super) fn run(self, _inbox: &std::sync::mpsc::Receiver<super::Command>) {}
}
