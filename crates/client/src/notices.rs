//! The WebSocket: what the server says without being asked (contract, section 9). Carries no data, only "there is
//! more".

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::ClientError;
use super::wire::Seq;

/// What came over the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The server accepted the socket.
    Connected {
        /// The account.
        user_id: i64,
    },
    /// There are operations up to here.
    NewOps {
        /// The highest sequence.
        latest_seq: Seq,
    },
    /// The server closed the socket; 4003, 4008 and 4009 mean that trying again is no use.
    Closed {
        /// The close code, if the server gave one.
        code: Option<u16>,
    },
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame {
    #[serde(rename_all = "camelCase")]
    Connected {
        user_id: i64,
    },
    Ping {},
    #[serde(rename_all = "camelCase")]
    NewOps {
        latest_seq: Seq,
    },
}

/// An open socket.
#[derive(Debug)]
pub struct Notices {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Notices {
    pub(super) async fn connect(base: &str, token: &str, client_id: &str, wait: Duration) -> Result<Self, ClientError> {
        // http → ws, https → wss.
        let address = base.replacen("http", "ws", 1);
        let query: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("clientId", client_id)
            .finish();
        // Notices are small, and the load generator holds ten thousand sockets.
        let config = WebSocketConfig::default().read_buffer_size(4096);
        let address = format!("{address}/api/sync/ws?{query}");
        let connecting = tokio_tungstenite::connect_async_with_config(address, Some(config), true);
        let (stream, _) =
            tokio::time::timeout(wait, connecting).await.map_err(|_| ClientError::ConnectTimeout(wait))??;
        Ok(Self { stream })
    }

    /// Waits for the next notice; answers pings on the way. After [`Notice::Closed`] nothing more comes.
    ///
    /// # Errors
    /// [`ClientError::Socket`] when the connection breaks, [`ClientError::InvalidAnswer`] for a frame that the contract
    /// does not know.
    pub async fn next(&mut self) -> Result<Notice, ClientError> {
        let invalid = |reason| ClientError::InvalidAnswer { route: "GET /api/sync/ws".into(), reason };
        loop {
            match self.stream.next().await {
                None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => {
                    return Ok(Notice::Closed { code: None });
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(Message::Close(frame))) => {
                    return Ok(Notice::Closed { code: frame.map(|frame| frame.code.into()) });
                }
                Some(Ok(Message::Text(text))) => {
                    match serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))? {
                        Frame::Connected { user_id } => return Ok(Notice::Connected { user_id }),
                        Frame::NewOps { latest_seq } => return Ok(Notice::NewOps { latest_seq }),
                        Frame::Ping {} => self.stream.send(Message::text(r#"{"type":"pong"}"#)).await?,
                    }
                }
                // Protocol pings are answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Binary(_))) => return Err(invalid("binary frame".into())),
            }
        }
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// [`ClientError::Socket`].
    pub async fn close(mut self) -> Result<(), ClientError> {
        Ok(self.stream.close(None).await?)
    }
}
