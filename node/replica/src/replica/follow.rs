//! A copy's side of its stream: whom it follows, and what it may take from there.
//!
//! In: what came on the stream. Out: what may be applied and acknowledged, and when to try again.

use std::time::Duration;

use ringmaster_ring::{Holder, Seq, ShardEpoch};

use super::StreamId;
use crate::Mono;

/// The first pause after a stream failed. A planned change of the primary must not wait for long.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// How long an unanswered request stands. A member that is about to serve answers once it does.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How long a stream may be silent. The primary's heartbeats are far more frequent.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// The same during a walk, whose next piece may have to wait for room.
const SILENCE_IN_WALK_MAX: Duration = Duration::from_secs(10);

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Asked,
    /// Accepted as a walk, and the former data is not dropped yet.
    Clearing,
    Walking,
    Following,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) primary: Holder,
    /// The epoch that was asked for.
    pub(super) epoch: ShardEpoch,
    pub(super) stage: Stage,
    pub(super) heard_at: Mono,
    /// Where the primary's log ended when it last said so.
    pub(super) primary_end: Seq,
}

impl Stream {
    /// Whether the primary may send under `epoch`: that of the stream, or the next, under which a former primary sends
    /// its last records (rule 7).
    pub(super) fn carries(&self, epoch: ShardEpoch) -> bool {
        epoch == self.epoch || epoch == self.epoch.next()
    }
}

/// Whom this copy follows, and when it tries again.
#[derive(Debug, Default)]
pub(super) struct Follow {
    pub(super) stream: Option<Stream>,
    last_id: u64,
    again_at: Mono,
    pause: Duration,
}

impl Follow {
    /// Begins a stream, if it is time to.
    pub(super) fn begin(&mut self, primary: Holder, epoch: ShardEpoch, now: Mono) -> Option<StreamId> {
        if now < self.again_at {
            return None;
        }
        self.last_id = self.last_id.saturating_add(1);
        let id = StreamId(self.last_id);
        self.stream = Some(Stream { id, primary, epoch, stage: Stage::Asked, heard_at: now, primary_end: Seq(0) });
        Some(id)
    }

    /// The stream with this number, if it is the present one. Whatever came on it shows that the primary is there.
    pub(super) fn heard(&mut self, id: StreamId, now: Mono) -> Option<&mut Stream> {
        let stream = self.stream.as_mut().filter(|stream| stream.id == id)?;
        stream.heard_at = now;
        if stream.stage != Stage::Asked {
            self.pause = Duration::ZERO;
        }
        Some(stream)
    }

    /// The stream is over, by whosever doing. The next attempt waits, longer each time.
    pub(super) fn over(&mut self, now: Mono) {
        self.stream = None;
        self.pause = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
        self.again_at = now.plus(self.pause);
    }

    /// The next attempt need not wait: there is news.
    pub(super) fn hurry(&mut self) {
        self.again_at = Mono::ZERO;
    }

    /// Whether `holder` was heard on a stream within `span`.
    pub(super) fn hears(&self, holder: Holder, now: Mono, span: Duration) -> bool {
        self.accepted().is_some_and(|stream| stream.primary == holder && now.since(stream.heard_at) <= span)
    }

    /// Whether the stream has been silent for too long.
    pub(super) fn is_silent(&self, now: Mono) -> bool {
        self.stream.is_some_and(|stream| {
            let max = match stream.stage {
                Stage::Asked => ANSWER_WITHIN,
                Stage::Following => SILENCE_MAX,
                Stage::Clearing | Stage::Walking => SILENCE_IN_WALK_MAX,
            };
            now.since(stream.heard_at) > max
        })
    }

    /// This process did not run for a while: that is nobody else's fault.
    pub(super) fn forgive(&mut self, gap: Duration) {
        if let Some(stream) = &mut self.stream {
            stream.heard_at = stream.heard_at.plus(gap);
        }
    }

    /// The stream that is past its acceptance, if there is one.
    pub(super) fn accepted(&self) -> Option<&Stream> {
        self.stream.as_ref().filter(|stream| stream.stage != Stage::Asked)
    }
}
