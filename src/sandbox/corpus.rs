//! What people write: names, tags and texts for generated rows.

use std::{fmt::Write as _, sync::Arc};

use rand::{Rng, RngExt};

pub(super) const FIRST_NAMES: [&str; 24] = [
    "Ada", "Bjørn", "Chloé", "Dmitri", "Elif", "Farah", "Giorgos", "Hana", "Ikaika", "José", "Khadija",
    "Łukasz", "Mei", "Ngozi", "Olu", "Priya", "Quinn", "Rosa", "Søren", "Tomás", "Uma", "Vera", "明", "ليلى",
];
pub(super) const LAST_NAMES: [&str; 20] = [
    "Abe", "Brown", "Castillo", "Dubois", "Eriksen", "Flores", "García", "Haddad", "Ito", "Jensen", "Kim",
    "Lopez", "Müller", "Nguyễn", "O'Brien", "Petrov", "Quispe", "Rossi", "Smith", "Wójcik",
];
pub(super) const TAGS: [&str; 8] =
    ["vip", "new", "renewal", "no-show", "spring \"sale\"", "référence", "后续", "🔥 hot"];
const TEXTS: [&str; 28] = [
    "Hi! Your order is ready for pickup.",
    "Can you move my appointment to Thursday afternoon?",
    "Thanks so much 🙏🙏",
    "Reminder: your visit is tomorrow at 10:30.\nReply C to confirm, R to reschedule.",
    "Is the blue one still available in size M?",
    "STOP",
    "👍",
    "We received your payment of $42.50. \"Paid in full\" ✅",
    "Running about ten minutes late, sorry!",
    "Where do I park?\r\nThe lot on 5th was full last time.",
    "Perfect, see you then 😊",
    "Could you send the invoice again? The link C:\\invoices\\2024 does not open.",
    "Hola, ¿a qué hora abren mañana?",
    "Merci beaucoup, à très bientôt !",
    "Vielen Dank für die schnelle Rückmeldung – bis später.",
    "您好，请问今天还营业吗？",
    "ありがとうございます。明日伺います。",
    "안녕하세요, 예약을 변경하고 싶어요.",
    "מתי אפשר להגיע? תודה רבה",
    "مرحبا، هل الموعد ما زال قائما؟",
    "Спасибо, всё получила!",
    "नमस्ते, क्या आप कल मिल सकते हैं?",
    "สวัสดีค่ะ ขอเลื่อนนัดได้ไหมคะ",
    "👨‍👩‍👧‍👦 four of us, one 👶🏽 seat please",
    "Your code is 004211. It expires in 10 minutes.",
    "Price list:\n\t- wash\t$20\n\t- wax\t$35\n\t- both\t$50",
    "It was great meeting you today! If you have a minute, we would love to hear how it went; the form takes less than a minute and helps us a great deal.",
    "Not interested, please remove me from your list",
];

/// A text as someone might send it.
pub(super) fn text(rng: &mut impl Rng) -> Arc<str> {
    let first = pick(rng, &TEXTS);
    match rng.random_range(0..10_u8) {
        0..=3 => Arc::from(first),
        4..=6 => {
            let mut text = String::with_capacity(first.len() + 12);
            let number: u32 = rng.random_range(1_000..1_000_000);
            write!(text, "{first} #{number}").expect("invariant: writing to a String cannot fail");
            Arc::from(text)
        }
        7 | 8 => Arc::from([first, pick(rng, &TEXTS)].join(" ")),
        _ => Arc::from([first, pick(rng, &TEXTS), pick(rng, &TEXTS)].join("\n")),
    }
}

pub(super) fn pick<'a>(rng: &mut impl Rng, words: &[&'a str]) -> &'a str {
    words[rng.random_range(0..words.len())]
}

/// An id as clients make them up for what they send.
pub(super) fn local_id(rng: &mut impl Rng) -> Arc<str> {
    let (high, low): (u64, u64) = (rng.random(), rng.random());
    Arc::from(format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    ))
}
