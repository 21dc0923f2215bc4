// The page: what the connection tells is shown, what people do is told to the connection.

import { Connection } from "./connection.js";
import { Log, element, hue } from "./log.js";

const TYPING_EVERY = 2_000; // milliseconds between two words that someone is typing
const TYPING_LASTS = 4_000;
const LONG = 0.8; // of the limit, from which on the length is shown

const $ = (id) => document.getElementById(id);
const logs = new Map(); // room -> Log
const typists = new Map(); // room -> Map(nick -> when it ends)
let limits = { text: 2_000 };
let current = null; // the Log that is shown
let returning = new Set(); // rooms that the page joins by itself, as it was in them before
let retryAt = 0;
let lastTyping = 0;

const url = new URL("chat", location.href.replace(/^http/, "ws"));
url.hash = "";
const connection = new Connection(url, sessionStorage, { changed, received });

// What the connection tells.

function changed(state, { until, reason } = {}) {
  retryAt = until ?? 0;
  typists.clear();
  document.body.dataset.connection = state;
  const words = { connecting: "Connecting", online: "Connected", ended: "Open in another window" };
  $("status").textContent = words[state] ?? (reason ? `Not connected: ${reason}` : "Not connected");
  $("retry").hidden = state === "connecting" || state === "online";
  $("retry").textContent = state === "ended" ? "Use it here" : "Try now";
}

setInterval(() => {
  const seconds = Math.ceil((retryAt - Date.now()) / 1000);
  if (retryAt) $("retry").textContent = seconds > 0 ? `Try now (${seconds} s)` : "Try now";
  showTypists();
}, 500);

function received(event) {
  if (Object.hasOwn(handlers, event.type)) handlers[event.type](event);
}

const handlers = {
  welcome({ nick, limits: given }) {
    limits = given;
    returning = new Set(connection.rooms.keys());
    setNick(nick);
    for (const message of connection.outbox) showWaiting(message);
  },

  joined({ room, members }) {
    logOf(room).people = members;
    const isAsked = !returning.delete(room);
    if (isAsked || room === wanted || (!current && !returning.size)) select(room);
    showRooms();
    showPeople();
  },

  left({ room }) {
    logs.get(room)?.node.remove();
    logs.delete(room);
    if (current?.room === room) select([...logs.keys()].at(0) ?? "lobby");
    showRooms();
  },

  message(message) {
    typists.get(message.room)?.delete(message.nick);
    showMessage(logOf(message.room), message);
    showRooms();
    showTypists();
  },

  presence({ room, event, nick, was }) {
    const view = logOf(room);
    view.people = view.people.filter((name) => name !== nick && name !== was);
    if (event !== "left") view.people.push(nick);
    const words = { joined: `${nick} came`, left: `${nick} left`, renamed: `${was} is now ${nick}` };
    if (nick !== connection.nick || event === "renamed") view.notePeople(words[event]);
    typists.get(room)?.delete(nick);
    showPeople();
  },

  typing({ room, nick }) {
    if (nick === connection.nick) return;
    if (!typists.has(room)) typists.set(room, new Map());
    typists.get(room).set(nick, Date.now() + TYPING_LASTS);
    showTypists();
  },

  members({ room, members }) {
    logOf(room).people = members;
    logOf(room).note(`In ${room}: ${members.join(", ")}`);
    showPeople();
  },

  nick: ({ nick }) => setNick(nick),
  notice: ({ text }) => (current ?? logOf("lobby")).note(text, "note said"),
  bye: ({ text }) => (current ?? logOf("lobby")).note(text),
  error: ({ id, room, text }) => (logs.get(room) ?? current ?? logOf("lobby")).refuse(id, text),
};

function setNick(nick) {
  const asked = localStorage.getItem("nick");
  if (asked && asked !== nick && connection.nick === nick) note(`You are called ${nick} here.`);
  localStorage.setItem("nick", nick);
  $("rename-nick").value = nick;
}

const note = (text) => current?.note(text);

// Rooms.

let wanted = roomOfAddress();

function roomOfAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || "lobby";
  } catch {
    return "lobby";
  }
}

function logOf(room) {
  if (!logs.has(room)) {
    const view = new Log(room);
    view.entries.addEventListener("scroll", look);
    logs.set(room, view);
    $("logs").append(view.node);
  }
  return logs.get(room);
}

function select(room) {
  if (!logs.has(room) && !connection.rooms.has(room)) return connection.join(room);
  current = logOf(room);
  wanted = room;
  for (const view of logs.values()) view.node.hidden = view !== current;
  if (roomOfAddress() !== room) history.replaceState(null, "", `#${encodeURIComponent(room)}`);
  $("title").textContent = $("title").dataset.room = room;
  $("text").placeholder = `Message ${room}`;
  if (current.isAtEnd) current.toEnd();
  openSide(false);
  look();
  showPeople();
  showTypists();
}

function showMessage(view, message) {
  const own = message.nick === connection.nick;
  const isNew = !own && !isSeen(view);
  if (isNew) view.mark();
  const mentioned = !own && mentions(message.text, connection.nick);
  if (view.show(message, { own, mentioned }) && isNew) view.unread += 1;
  showNewer();
}

/** Say whether a text has a name in it, as words of their own. */
function mentions(text, nick) {
  const [words, name] = [text, nick].map((one) => one.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean));
  return name.length > 0 && ` ${words.join(" ")} `.includes(` ${name.join(" ")} `);
}

function showWaiting(message) {
  logOf(message.room).confirm(message.id);
  logOf(message.room).showWaiting({ ...message, nick: connection.nick });
}

const isSeen = (view) => view === current && view.isAtEnd && !document.hidden;

/** Take note that what is on the screen has been read. */
function look() {
  if (!current || !isSeen(current)) return showNewer();
  current.unread = 0;
  showRooms();
  showNewer();
}

function showRooms() {
  const items = [...logs.values()].map((view) => {
    const button = element("button", { type: "button", className: "room-button" },
      element("span", { className: "name", textContent: view.room }));
    if (view.unread) button.append(badge(view.unread));
    if (view === current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => select(view.room));
    const leave = element("button", { type: "button", className: "leave", textContent: "×" });
    leave.setAttribute("aria-label", `Leave ${view.room}`);
    leave.addEventListener("click", () => connection.leave(view.room));
    return element("li", {}, button, ...(logs.size > 1 ? [leave] : []));
  });
  replace($("rooms"), items);
  const unread = [...logs.values()].reduce((sum, view) => sum + view.unread, 0);
  document.title = `${unread ? `(${unread}) ` : ""}${current?.room ?? "Chat"} · triows chat`;
  const elsewhere = unread - (current?.unread ?? 0);
  $("elsewhere").hidden = !elsewhere;
  $("elsewhere").replaceChildren(...badge(elsewhere).childNodes);
}

/** Put new nodes in the place of old ones; the focus stays on the same line. */
function replace(list, items) {
  const index = [...list.children].findIndex((item) => item.contains(document.activeElement));
  list.replaceChildren(...items);
  if (index >= 0) items.at(index)?.querySelector("button")?.focus();
}

function badge(unread) {
  return element("span", { className: "badge" }, String(unread),
    element("span", { className: "sr", textContent: " unread" }));
}

function showNewer() {
  const unread = current?.unread ?? 0;
  $("newer").hidden = !current || current.isAtEnd;
  $("newer").textContent = unread ? `↓ ${unread} new` : "↓ To the end";
}

// People.

function showPeople() {
  if (!current) return;
  const people = [...current.people].sort((one, other) => one.localeCompare(other));
  $("count").textContent = people.length;
  $("people").replaceChildren(...people.map((nick) => {
    const item = element("li", { textContent: nick });
    item.style.setProperty("--hue", hue(nick));
    if (nick === connection.nick) item.append(element("span", { className: "quiet", textContent: " you" }));
    return item;
  }));
}

function showTypists() {
  const now = Date.now();
  const names = [...(typists.get(current?.room) ?? [])].filter(([, end]) => end > now);
  const words = names.length > 3 ? "Several people are" : names.map(([nick]) => nick).join(", ")
    + (names.length > 1 ? " are" : " is");
  $("typing").textContent = names.length ? `${words} typing …` : "";
}

// What people do.

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || !current || [...text].length > limits.text) return;
  if (text.startsWith("/")) {
    if (!connection.tell({ type: "command", room: current.room, text }))
      return note("Commands need a connection.");
  } else {
    current.unmark();
    showWaiting(connection.say(current.room, text));
  }
  $("text").value = "";
  lastTyping = 0;
  grow();
});

$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

$("text").addEventListener("input", () => {
  grow();
  const now = Date.now();
  if (!$("text").value || $("text").value.startsWith("/") || now - lastTyping < TYPING_EVERY) return;
  lastTyping = now;
  connection.tell({ type: "typing", room: current?.room });
});

/** Fit the field to its text, and say when that comes near the limit. */
function grow() {
  const field = $("text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`; // and its borders
  const length = [...field.value].length;
  $("counter").textContent = length > LONG * limits.text ? `${length} of ${limits.text}` : "";
  $("counter").classList.toggle("over", length > limits.text);
}

$("newer").addEventListener("click", () => {
  current.toEnd();
  look();
  $("text").focus();
});

$("retry").addEventListener("click", () => connection.open());
addEventListener("online", () => connection.isOnline || connection.open());
addEventListener("pagehide", () => connection.close()); // it may be kept, to be shown again
addEventListener("pageshow", (event) => event.persisted && connection.open());
document.addEventListener("visibilitychange", look);
addEventListener("hashchange", () => select((wanted = roomOfAddress())));

$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  const room = $("join-room").value.trim().replace(/^#/, "").toLowerCase();
  if (logs.has(room)) select(room);
  else if (!connection.tell({ type: "join", room })) note("That needs a connection.");
  event.target.reset();
});

$("rename").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!connection.tell({ type: "nick", nick: $("rename-nick").value })) note("That needs a connection.");
  openSide(false);
});

$("menu").addEventListener("click", () => openSide(!document.body.classList.contains("open")));
$("shade").addEventListener("click", () => openSide(false));

/** Show or hide the rooms and people where the screen is too narrow for them. */
function openSide(isOpen) {
  const wasOpen = document.body.classList.toggle("open", isOpen) !== isOpen;
  $("menu").setAttribute("aria-expanded", isOpen);
  $("shade").hidden = !isOpen;
  $("main").inert = isOpen;
  if (isOpen) $("rooms").querySelector("button")?.focus();
  else if (!wasOpen && document.activeElement?.closest("#side")) $("text").focus();
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    openSide(false);
    $("text").focus();
  } else if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
    event.preventDefault();
    const rooms = [...logs.keys()];
    const step = event.key === "ArrowUp" ? -1 : 1;
    select(rooms.at((rooms.indexOf(current?.room) + step) % rooms.length));
  } else if (event.key === "/" && !event.target.closest("input, textarea, dialog")) {
    $("text").focus();
  }
});

// The beginning: a name, then the room in the address.

function start(nick) {
  localStorage.setItem("nick", nick);
  if (!connection.rooms.has(wanted)) connection.rooms.set(wanted, {});
  connection.open(nick);
}

$("enter").addEventListener("submit", () => start($("nick").value.trim()));
$("welcome").addEventListener("close", () => $("text").focus());
$("welcome").addEventListener("cancel", (event) => event.preventDefault());

if (sessionStorage.getItem("session") && localStorage.getItem("nick")) start(localStorage.getItem("nick"));
else {
  $("welcome-room").textContent = wanted;
  $("nick").value = localStorage.getItem("nick") ?? "";
  $("welcome").showModal();
}
