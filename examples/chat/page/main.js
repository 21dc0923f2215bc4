// The page: what the connection tells is shown, what people do is told to the connection.

import { setUpComposer } from "./composer.js";
import { Connection } from "./connection.js";
import { Log } from "./log.js";
import { openSide, showPeople, showRooms, showTypists } from "./side.js";

const TYPING_LASTS = 4_000; // milliseconds

const $ = (id) => document.getElementById(id);
const logs = new Map(); // room -> Log
const typists = new Map(); // room -> Map(nick -> when it ends)
let current = null; // the Log that is shown
let returning = new Set(); // rooms that the page joins by itself, as it was in them before
let retryAt = 0;

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
  show();
}, 500);

function received(event) {
  if (Object.hasOwn(handlers, event.type)) handlers[event.type](event);
}

const handlers = {
  welcome({ nick, limits }) {
    composer.limit = limits.text;
    returning = new Set(connection.rooms.keys());
    setNick(nick);
    for (const message of connection.outbox) showWaiting(message);
  },

  joined({ room, members }) {
    logOf(room).people = members;
    const isAsked = !returning.delete(room);
    if (isAsked || room === wanted || (!current && !returning.size)) select(room);
    show();
  },

  left({ room }) {
    logs.get(room)?.node.remove();
    logs.delete(room);
    if (current?.room === room) select([...logs.keys()].at(0) ?? "lobby");
    show();
  },

  message(message) {
    typists.get(message.room)?.delete(message.nick);
    showMessage(logOf(message.room), message);
    show();
  },

  presence({ room, event, nick, was }) {
    const view = logOf(room);
    view.people = view.people.filter((name) => name !== nick && name !== was);
    if (event !== "left") view.people.push(nick);
    const words = { joined: `${nick} came`, left: `${nick} left`, renamed: `${was} is now ${nick}` };
    if (nick !== connection.nick || event === "renamed") view.notePeople(words[event]);
    typists.get(room)?.delete(nick);
    show();
  },

  typing({ room, nick }) {
    if (nick === connection.nick) return;
    if (!typists.has(room)) typists.set(room, new Map());
    typists.get(room).set(nick, Date.now() + TYPING_LASTS);
    show();
  },

  members({ room, members }) {
    logOf(room).people = members;
    logOf(room).note(`In ${room}: ${members.join(", ")}`);
    show();
  },

  nick: ({ nick }) => setNick(nick),
  notice: ({ text }) => (current ?? logOf("lobby")).note(text, "note said"),
  bye: ({ room, text }) => logOf(room).note(text),

  error({ code, id, room, text }) {
    if (code === "name" && !connection.isWelcome) {
      connection.close();
      return ask(text);
    }
    (logs.get(room) ?? current ?? logOf("lobby")).refuse(id, text);
  },
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
}

function showMessage(view, message) {
  const own = message.nick === connection.nick;
  const isNew = !own && !isSeen(view);
  if (isNew) view.mark();
  const mentioned = !own && mentions(message.text, connection.nick);
  if (view.show(message, { own, mentioned }) && isNew) view.unread += 1;
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
  if (current && isSeen(current)) current.unread = 0;
  show();
}

/** Bring what stands around the conversation up to date. */
function show() {
  const act = { select, leave: (room) => connection.leave(room) };
  showRooms([...logs.values()], current, act);
  if (!current) return;
  showPeople(current.people, connection.nick);
  const now = Date.now();
  const typing = [...(typists.get(current.room) ?? [])].filter(([, end]) => end > now);
  showTypists(typing.map(([nick]) => nick));
  $("newer").hidden = current.isAtEnd;
  $("newer").textContent = current.unread ? `↓ ${current.unread} new` : "↓ To the end";
}

// What people do.

const composer = {
  limit: 2_000,

  say(text) {
    if (!current) return false;
    if (text.startsWith("/")) {
      const isTold = connection.tell({ type: "command", room: current.room, text });
      if (!isTold) note("Commands need a connection.");
      return isTold;
    }
    current.unmark();
    showWaiting(connection.say(current.room, text));
    return true;
  },

  typing: () => current && connection.tell({ type: "typing", room: current.room }),
};

setUpComposer(composer);

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

/** Ask for a name, and say what was wrong with the one before. */
function ask(complaint = "") {
  $("welcome-room").textContent = wanted;
  $("complaint").textContent = complaint;
  $("nick").value = localStorage.getItem("nick") ?? "";
  $("welcome").showModal();
}

$("enter").addEventListener("submit", () => start($("nick").value.trim()));
$("welcome").addEventListener("close", () => $("text").focus());
$("welcome").addEventListener("cancel", (event) => event.preventDefault());

if (sessionStorage.getItem("session") && localStorage.getItem("nick")) start(localStorage.getItem("nick"));
else ask();
