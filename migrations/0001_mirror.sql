CREATE SCHEMA heymarket;
COMMENT ON SCHEMA heymarket IS 'The mirror of one Heymarket team: each row at the newest version that the source has shown.';
CREATE SCHEMA heymarket_bi;
COMMENT ON SCHEMA heymarket_bi IS 'Views for people and BI tools over schema heymarket.';
CREATE SCHEMA IF NOT EXISTS heymarket_sync;
COMMENT ON SCHEMA heymarket_sync IS 'State of the heymarket-sync daemon: what is held, what was set aside, who leads.';

CREATE TABLE heymarket.conversations (
    id           bigint PRIMARY KEY,
    assigned     bigint,
    blocked      boolean,
    channel      text,
    created      timestamptz,
    creator      bigint,
    email_noti   boolean,
    inbox        bigint,
    last_inbound bigint,
    local_id     text,
    muted        boolean,
    name         text,
    noreply      text,
    op           text,
    read         bigint,
    replied      boolean,
    snooze_till  timestamptz,
    status       text,
    super        bigint,
    support      boolean,
    target       text,
    type         text,
    updated      timestamptz,
    _extra       jsonb,
    _synced_at   timestamptz NOT NULL,
    _deleted_at  timestamptz
);
CREATE INDEX conversations_updated_idx ON heymarket.conversations (updated);
CREATE INDEX conversations_inbox_updated_idx ON heymarket.conversations (inbox, updated);
CREATE INDEX conversations_target_idx ON heymarket.conversations (target);

COMMENT ON TABLE heymarket.conversations IS 'Conversations, open and closed: one row per thread between an inbox and a customer or group.';
COMMENT ON COLUMN heymarket.conversations.id IS 'The conversation''s id at the source.';
COMMENT ON COLUMN heymarket.conversations.assigned IS 'User id of the team member it is assigned to; 0 or NULL: nobody.';
COMMENT ON COLUMN heymarket.conversations.blocked IS 'Whether the customer is blocked.';
COMMENT ON COLUMN heymarket.conversations.channel IS 'Channel of the conversation, such as SMS.';
COMMENT ON COLUMN heymarket.conversations.created IS 'When the conversation was created.';
COMMENT ON COLUMN heymarket.conversations.creator IS 'User id of the team member who created it.';
COMMENT ON COLUMN heymarket.conversations.email_noti IS 'Whether e-mail notifications are on.';
COMMENT ON COLUMN heymarket.conversations.inbox IS 'Id of the inbox it belongs to.';
COMMENT ON COLUMN heymarket.conversations.last_inbound IS 'The API''s last_inbound: a number that marks the last inbound message, as sent by the source.';
COMMENT ON COLUMN heymarket.conversations.local_id IS 'Id given by the client that created it.';
COMMENT ON COLUMN heymarket.conversations.muted IS 'Whether notifications are muted.';
COMMENT ON COLUMN heymarket.conversations.name IS 'Name of the conversation.';
COMMENT ON COLUMN heymarket.conversations.noreply IS 'The API''s noreply setting.';
COMMENT ON COLUMN heymarket.conversations.op IS 'The API''s last operation on the row.';
COMMENT ON COLUMN heymarket.conversations.read IS 'The API''s read marker, as sent by the source.';
COMMENT ON COLUMN heymarket.conversations.replied IS 'Whether the team has replied.';
COMMENT ON COLUMN heymarket.conversations.snooze_till IS 'Snoozed until then; NULL: not snoozed.';
COMMENT ON COLUMN heymarket.conversations.status IS 'State of the conversation, such as open or closed.';
COMMENT ON COLUMN heymarket.conversations.super IS 'The API''s super field.';
COMMENT ON COLUMN heymarket.conversations.support IS 'The API''s support flag.';
COMMENT ON COLUMN heymarket.conversations.target IS 'The other side: usually the customer''s phone number.';
COMMENT ON COLUMN heymarket.conversations.type IS 'Kind of conversation.';
COMMENT ON COLUMN heymarket.conversations.updated IS 'When it last changed at the source; the version of the row and its time line.';
COMMENT ON COLUMN heymarket.conversations._extra IS 'Fields that this version does not know, and raw values that could not be read; NULL when there are none.';
COMMENT ON COLUMN heymarket.conversations._synced_at IS 'When this version of the row was written to the mirror.';
COMMENT ON COLUMN heymarket.conversations._deleted_at IS 'When the row was found to be gone at the source; NULL while it lives.';

CREATE TABLE heymarket.conversation_members (
    conversation_id bigint NOT NULL REFERENCES heymarket.conversations (id) ON DELETE CASCADE,
    id              bigint NOT NULL,
    name            text,
    PRIMARY KEY (conversation_id, id)
);
COMMENT ON TABLE heymarket.conversation_members IS 'Who takes part in each conversation.';
COMMENT ON COLUMN heymarket.conversation_members.conversation_id IS 'The conversation: heymarket.conversations.id.';
COMMENT ON COLUMN heymarket.conversation_members.id IS 'The member''s id at the source.';
COMMENT ON COLUMN heymarket.conversation_members.name IS 'The member''s name.';

CREATE TABLE heymarket.messages (
    id              bigint PRIMARY KEY,
    conversation_id bigint,
    author          text,
    broadcast_id    bigint,
    custom          jsonb,
    date            timestamptz,
    flagged         boolean,
    link_url        text,
    local_id        text,
    media           text,
    phone           text,
    status          text,
    super           bigint,
    support         boolean,
    target          text,
    text            text,
    type            text,
    updated         timestamptz,
    user_id         bigint,
    _extra          jsonb,
    _synced_at      timestamptz NOT NULL,
    _deleted_at     timestamptz
);
CREATE INDEX messages_date_idx ON heymarket.messages (date);
CREATE INDEX messages_updated_idx ON heymarket.messages (updated);
CREATE INDEX messages_conversation_id_date_idx ON heymarket.messages (conversation_id, date);

COMMENT ON TABLE heymarket.messages IS 'Messages, sent and received: one row each.';
COMMENT ON COLUMN heymarket.messages.id IS 'The message''s id at the source.';
COMMENT ON COLUMN heymarket.messages.conversation_id IS 'The conversation: heymarket.conversations.id. No foreign key: a message may come without its conversation.';
COMMENT ON COLUMN heymarket.messages.author IS 'Who wrote it, as text.';
COMMENT ON COLUMN heymarket.messages.broadcast_id IS 'Id of the broadcast it was sent by; 0 or NULL: none.';
COMMENT ON COLUMN heymarket.messages.custom IS 'The API''s custom object: data and type.';
COMMENT ON COLUMN heymarket.messages.date IS 'When the message was created.';
COMMENT ON COLUMN heymarket.messages.flagged IS 'Whether it is flagged.';
COMMENT ON COLUMN heymarket.messages.link_url IS 'Address of a link in it.';
COMMENT ON COLUMN heymarket.messages.local_id IS 'Id given by the client that created it.';
COMMENT ON COLUMN heymarket.messages.media IS 'Address of attached media.';
COMMENT ON COLUMN heymarket.messages.phone IS 'The phone number of the message.';
COMMENT ON COLUMN heymarket.messages.status IS 'Delivery status; it changes after creation.';
COMMENT ON COLUMN heymarket.messages.super IS 'The API''s super field.';
COMMENT ON COLUMN heymarket.messages.support IS 'The API''s support flag.';
COMMENT ON COLUMN heymarket.messages.target IS 'The other side: usually the customer''s phone number.';
COMMENT ON COLUMN heymarket.messages.text IS 'The text of the message.';
COMMENT ON COLUMN heymarket.messages.type IS 'Kind of message.';
COMMENT ON COLUMN heymarket.messages.updated IS 'When it last changed at the source (delivery status); the version of the row.';
COMMENT ON COLUMN heymarket.messages.user_id IS 'The API''s user: id of the team member who sent it; 0 or NULL: none.';
COMMENT ON COLUMN heymarket.messages._extra IS 'Fields that this version does not know, and raw values that could not be read; NULL when there are none.';
COMMENT ON COLUMN heymarket.messages._synced_at IS 'When this version of the row was written to the mirror.';
COMMENT ON COLUMN heymarket.messages._deleted_at IS 'When the row was found to be gone at the source; NULL while it lives.';

CREATE TABLE heymarket.contacts (
    id               bigint PRIMARY KEY,
    avatar           text,
    created          timestamptz,
    creator_id       bigint,
    custom           jsonb,
    display_name     text,
    email            text,
    external_id      text,
    external_ref     text,
    first            text,
    inbox_id         bigint,
    last             text,
    op               text,
    parent_id        bigint,
    phone            text,
    rev              bigint,
    shared           boolean,
    team_id          bigint,
    type             text,
    updated          timestamptz,
    assigned_user_id bigint,
    tags             jsonb,
    is_opted_out     boolean,
    _extra           jsonb,
    _synced_at       timestamptz NOT NULL,
    _deleted_at      timestamptz
);
CREATE INDEX contacts_phone_idx ON heymarket.contacts (phone);
CREATE INDEX contacts_updated_idx ON heymarket.contacts (updated);
CREATE INDEX contacts_inbox_id_idx ON heymarket.contacts (inbox_id);

COMMENT ON TABLE heymarket.contacts IS 'The address book: one row per contact.';
COMMENT ON COLUMN heymarket.contacts.id IS 'The contact''s id at the source.';
COMMENT ON COLUMN heymarket.contacts.avatar IS 'Address of the contact''s picture.';
COMMENT ON COLUMN heymarket.contacts.created IS 'When the contact was created.';
COMMENT ON COLUMN heymarket.contacts.creator_id IS 'User id of the team member who created it.';
COMMENT ON COLUMN heymarket.contacts.custom IS 'Values of custom fields, keyed by the field''s id.';
COMMENT ON COLUMN heymarket.contacts.display_name IS 'Name as displayed.';
COMMENT ON COLUMN heymarket.contacts.email IS 'E-mail address.';
COMMENT ON COLUMN heymarket.contacts.external_id IS 'Id of the contact in another system.';
COMMENT ON COLUMN heymarket.contacts.external_ref IS 'Name or address of that other system.';
COMMENT ON COLUMN heymarket.contacts.first IS 'First name.';
COMMENT ON COLUMN heymarket.contacts.inbox_id IS 'Id of the inbox it belongs to; 0 or NULL: shared.';
COMMENT ON COLUMN heymarket.contacts.last IS 'Last name.';
COMMENT ON COLUMN heymarket.contacts.op IS 'The API''s last operation on the row.';
COMMENT ON COLUMN heymarket.contacts.parent_id IS 'Id of the parent contact or account.';
COMMENT ON COLUMN heymarket.contacts.phone IS 'Phone number.';
COMMENT ON COLUMN heymarket.contacts.rev IS 'Revision: grows with each change; the first part of the row''s version.';
COMMENT ON COLUMN heymarket.contacts.shared IS 'Whether it is shared with the team.';
COMMENT ON COLUMN heymarket.contacts.team_id IS 'Id of the team.';
COMMENT ON COLUMN heymarket.contacts.type IS 'Kind of contact.';
COMMENT ON COLUMN heymarket.contacts.updated IS 'When it last changed at the source; its time line and the second part of its version.';
COMMENT ON COLUMN heymarket.contacts.assigned_user_id IS 'User id of the team member it is assigned to.';
COMMENT ON COLUMN heymarket.contacts.tags IS 'Tags as the source sends them: a JSON array.';
COMMENT ON COLUMN heymarket.contacts.is_opted_out IS 'Whether the customer has opted out of texting.';
COMMENT ON COLUMN heymarket.contacts._extra IS 'Fields that this version does not know, and raw values that could not be read; NULL when there are none.';
COMMENT ON COLUMN heymarket.contacts._synced_at IS 'When this version of the row was written to the mirror.';
COMMENT ON COLUMN heymarket.contacts._deleted_at IS 'When the row was found to be gone at the source; NULL while it lives.';

CREATE TABLE heymarket.contact_notes (
    contact_id bigint NOT NULL REFERENCES heymarket.contacts (id) ON DELETE CASCADE,
    id         text   NOT NULL,
    date       timestamptz,
    name       text,
    text       text,
    user_id    bigint,
    PRIMARY KEY (contact_id, id)
);
COMMENT ON TABLE heymarket.contact_notes IS 'Notes that team members wrote on contacts.';
COMMENT ON COLUMN heymarket.contact_notes.contact_id IS 'The contact: heymarket.contacts.id.';
COMMENT ON COLUMN heymarket.contact_notes.id IS 'The note''s id at the source (text).';
COMMENT ON COLUMN heymarket.contact_notes.date IS 'When the note was written.';
COMMENT ON COLUMN heymarket.contact_notes.name IS 'Name of its author.';
COMMENT ON COLUMN heymarket.contact_notes.text IS 'The note''s text.';
COMMENT ON COLUMN heymarket.contact_notes.user_id IS 'User id of its author.';
