//! The endpoints that the sandbox answers.

/// One endpoint; the three paged ones also name the rows they list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// `POST /v1/messages/all` \[S\]
    Messages,
    /// `POST /v1/conversations` \[S\]
    Conversations,
    /// `POST /v1/contacts` \[S\]
    Contacts,
    /// `GET /v1/messages` \[S\]
    History,
    /// `GET /v1/conversations/{id}` \[S\]
    Conversation,
    /// `GET /v1/inboxes` \[V\]
    Inboxes,
    /// `GET /v1/team` \[V\]
    Team,
    /// `POST /v1/messages/all/count` \[V\]
    MessagesCount,
    /// `POST /v1/conversations/count` \[V\]
    ConversationsCount,
    /// `POST /v1/contacts/count` \[V\]
    ContactsCount,
}
