// One room's log as people see it. Whatever others wrote goes into text nodes and nowhere else.

const GROUP = 300; // seconds within which one person's messages stand under one name
const LONGEST = 1_000; // messages that are kept on the page
const LINK = /\bhttps?:\/\/[^\s<>"]+/g;

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export class Log {
  unread = 0;
  people = [];
  #log; // which numbering the messages shown last are of
  #seq = 0; // the number of the last one
  #ids = new Set(); // of the messages shown
  #day = ""; // that of the last message
  #last = {}; // whose the last message was and when, if it was the last line
  #notice = null; // the last line if it is about people coming and going
  #marker = null;

  constructor(room) {
    this.room = room;
    this.entries = element("div", { className: "entries", tabIndex: 0, role: "log" });
    this.entries.setAttribute("aria-label", `Messages in ${room}`);
    this.waiting = element("div", { className: "waiting" });
    this.node = element("div", { className: "room", hidden: true }, this.entries);
    this.entries.append(this.waiting);
    this.isAtEnd = true;
    this.entries.addEventListener("scroll", () => (this.isAtEnd = this.#distance() < 40));
    new ResizeObserver(() => this.isAtEnd && this.toEnd()).observe(this.entries);
  }

  #distance() {
    const { scrollHeight, scrollTop, clientHeight } = this.entries;
    return scrollHeight - scrollTop - clientHeight;
  }

  toEnd() {
    this.entries.scrollTop = this.entries.scrollHeight;
    this.isAtEnd = true;
  }

  /** Add a node at the end, and stay there if that is where the reader is. */
  #add(node) {
    this.waiting.before(node);
    this.#notice = null;
    if (this.entries.childElementCount > LONGEST) this.entries.firstElementChild.remove();
    if (this.isAtEnd) this.toEnd();
    return node;
  }

  /** Show a message; returns whether it is a new one. */
  show(message, { own, mentioned }) {
    const { id, log, seq, nick, text, time } = message;
    this.confirm(id);
    const isShown = this.#ids.has(id); // one may come twice, with two numbers
    if (log === this.#log ? seq <= this.#seq : isShown) return false;
    this.#follow(log, seq);
    if (isShown) return false;
    if (id) this.#ids.add(id);
    const date = new Date(time * 1000);
    this.#turnPage(date);
    const isMore = this.#last.nick === nick && time - this.#last.time < GROUP;
    this.#last = { nick, time };
    this.#add(bubble({ nick, text, date, own, mentioned, isMore }));
    return true;
  }

  /** Show a message that the server is not known to have. */
  showWaiting({ id, nick, text, time }) {
    const node = bubble({ nick, text, date: new Date(time * 1000), own: true, isMore: false });
    node.dataset.id = id;
    node.append(element("p", { className: "state", textContent: "Waiting to be sent" }));
    this.waiting.append(node);
    this.toEnd();
  }

  #waiting(id) {
    return [...this.waiting.children].find((node) => id && node.dataset.id === id);
  }

  confirm(id) {
    this.#waiting(id)?.remove();
  }

  /** Say why a message was not taken; it stays, so that its text can be copied. */
  refuse(id, why) {
    const node = this.#waiting(id);
    if (!node) return this.note(why);
    node.classList.add("refused");
    node.querySelector(".state").textContent = `Not sent: ${why}`;
    this.#add(node);
    this.#last = {};
  }

  /** Show a line that no one said. */
  note(text, className = "note") {
    this.#last = {};
    return this.#add(element("p", { className, textContent: text }));
  }

  /** Show who came, went or changed names; neighbouring lines become one. */
  notePeople(text) {
    if (this.#notice) this.#notice.textContent += `, ${text}`;
    else this.#notice = this.note(text);
  }

  /** Say what is missing between the last message and this one. */
  #follow(log, seq) {
    const isNew = log !== this.#log;
    const missed = seq - (isNew ? 0 : this.#seq) - 1;
    if (isNew && this.#log) this.note("The server has started anew; it no longer knows what is above.");
    else if (missed && this.#log) this.note(`${missed} messages are missing here.`);
    this.#log = log;
    this.#seq = seq;
  }

  /** Mark where the unread messages begin, unless there is such a mark. */
  mark() {
    if (this.#marker?.isConnected) return;
    this.#marker = this.note("New messages", "marker");
  }

  unmark() {
    this.#marker?.remove();
  }

  #turnPage(date) {
    const day = date.toDateString();
    if (day !== this.#day) this.note(calendar.format(date), "day");
    this.#day = day;
  }
}

/** A message's node. */
function bubble({ nick, text, date, own, mentioned, isMore }) {
  const node = element("div", { className: "message" });
  node.classList.toggle("own", Boolean(own));
  node.classList.toggle("more", isMore);
  node.classList.toggle("mentioned", Boolean(mentioned));
  node.style.setProperty("--hue", hue(nick)); // by script: a style attribute would be refused
  const avatar = element("span", { className: "avatar", textContent: [...nick][0].toUpperCase() });
  avatar.setAttribute("aria-hidden", "true");
  const time = element("time", {
    dateTime: date.toISOString(), title: exact.format(date), textContent: clock.format(date),
  });
  node.append(
    avatar,
    element("p", { className: "head" }, element("b", { textContent: nick }), " ", time),
    element("p", { className: "text" }, ...linked(text)),
  );
  return node;
}

/** Split a text into strings and links to what looks like an address. */
function linked(text) {
  const parts = [];
  let end = 0;
  for (const { 0: found, index } of text.matchAll(LINK)) {
    const address = withoutPunctuation(found);
    if (!URL.canParse(address)) continue;
    parts.push(text.slice(end, index), element("a", {
      href: address, textContent: address, target: "_blank", rel: "noopener noreferrer nofollow",
    }));
    end = index + address.length;
  }
  return [...parts, text.slice(end)];
}

/** Leave out what ends the sentence, not the address. */
function withoutPunctuation(address) {
  const bare = address.replace(/[.,;:!?'*_]+$/, "");
  return bare.endsWith(")") && !bare.includes("(") ? withoutPunctuation(bare.slice(0, -1)) : bare;
}

/** A colour for a name, the same for everyone, in degrees. */
export function hue(name) {
  let sum = 0;
  for (const character of name) sum = (sum * 31 + character.codePointAt(0)) % 360;
  return sum;
}
