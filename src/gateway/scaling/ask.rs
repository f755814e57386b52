//! One question to the root program of the host, and its answer.
use crate::protocol::scaling::{Refused, SlotReply, SlotRequest};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A unit may take its time to stop, and its slot to be cleared.
const ANSWER: Duration = Duration::from_secs(180);

/// Why it was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotDone {
    pub refused: Refused,
    pub why: String,
}

impl NotDone {
    fn failed(why: String) -> NotDone {
        NotDone { refused: Refused::Failed, why }
    }
}

pub async fn ask(socket: &Path, request: &SlotRequest) -> Result<(), NotDone> {
    let answer = timeout(ANSWER, exchange(socket, request)).await;
    let late = |_| Err(format!("no answer from {} within {} s", socket.display(), ANSWER.as_secs()));
    let reply = answer.unwrap_or_else(late).map_err(NotDone::failed)?;
    match reply.refused {
        None => Ok(()),
        Some(refused) => Err(NotDone { refused, why: reply.why }),
    }
}

async fn exchange(socket: &Path, request: &SlotRequest) -> Result<SlotReply, String> {
    let failed = |e: std::io::Error| format!("cannot ask {}: {e}", socket.display());
    let stream = UnixStream::connect(socket).await.map_err(failed)?;
    let (input, mut output) = stream.into_split();
    let mut line = serde_json::to_vec(request).map_err(|e| e.to_string())?;
    line.push(b'\n');
    output.write_all(&line).await.map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(input).read_line(&mut answer).await.map_err(failed)?;
    serde_json::from_str(&answer).map_err(|e| format!("{} answered {answer:?}: {e}", socket.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::scaling::UpDown;
    use tokio::net::UnixListener;

    async fn answered(text: &'static str) -> Result<(), NotDone> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            line
        });
        let done = ask(&path, &SlotRequest { version: 1, generation: 7, slot: 2, to: UpDown::Up }).await;
        assert_eq!(server.await.unwrap(), "{\"version\":1,\"generation\":7,\"slot\":2,\"to\":\"up\"}\n");
        done
    }

    #[tokio::test]
    async fn a_question_is_answered_or_it_is_said_why_not() {
        assert_eq!(answered("{}\n").await, Ok(()));
        let refused = answered("{\"refused\":\"busy\",\"why\":\"a deploy\"}\n").await.unwrap_err();
        assert_eq!((refused.refused, refused.why.as_str()), (Refused::Busy, "a deploy"));
        let cut = answered("").await.unwrap_err();
        assert!(cut.refused == Refused::Failed && cut.why.contains("answered \"\""), "{cut:?}");
        let nobody = SlotRequest { version: 1, generation: 7, slot: 2, to: UpDown::Up };
        let nobody = ask(Path::new("/nowhere/socket"), &nobody).await.unwrap_err();
        assert!(nobody.why.starts_with("cannot ask /nowhere/socket: "), "{nobody:?}");
    }
}
