// The connection: it opens, says hello, joins its rooms again after what it has of them, and sends
// what waits. It knows nothing of the page. The protocol is that of docs/reference/chat-protocol.md.

const SUBPROTOCOL = "chat.v1";
const FIRST_DELAY = 500; // milliseconds, as all times here
const LONGEST_DELAY = 15_000;
const PATIENCE = 10_000; // without a word from the server while it owes us one
const REPLACED = 4001; // the same session was opened elsewhere

export class Connection {
  rooms = new Map(); // name -> {log, seq}: the last message that we have, in which numbering
  outbox; // messages that the server has not been seen to take: {id, room, text, time}
  isWelcome = false; // whether the server knows us
  #joined = new Set();
  #socket = null;
  #failures = 0;
  #retry = 0;
  #watch = 0;

  /** `listener` has `changed(state, details)` and `received(event)`; `store` is a Storage. */
  constructor(url, store, listener) {
    Object.assign(this, { url, store, listener });
    this.outbox = JSON.parse(store.getItem("outbox") ?? "[]");
    for (const name of JSON.parse(store.getItem("rooms") ?? "[]")) this.rooms.set(name, {});
  }

  get isOnline() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  open(nick = this.nick) {
    this.nick = nick;
    this.#drop();
    this.listener.changed("connecting");
    const socket = new WebSocket(this.url, SUBPROTOCOL);
    const ours = (act) => (event) => socket === this.#socket && act(event);
    socket.onopen = ours(() =>
      this.#send({ type: "hello", nick, session: this.store.getItem("session") ?? undefined }));
    socket.onmessage = ours((event) => this.#receive(JSON.parse(event.data)));
    socket.onclose = ours((event) => this.#lose(event));
    this.#socket = socket;
    this.#expect();
  }

  close() {
    this.#drop();
    this.listener.changed("waiting");
  }

  join(room) {
    if (!this.rooms.has(room)) this.rooms.set(room, {});
    this.#keep();
    const { log, seq } = this.rooms.get(room);
    this.#send({ type: "join", room, log, after: seq });
  }

  leave(room) {
    this.#forget(room);
    this.#send({ type: "leave", room });
  }

  /** Say something as soon as that is possible, and again until the server has it. */
  say(room, text) {
    const message = { id: crypto.randomUUID?.() ?? randomId(), room, text, time: Date.now() / 1000 };
    this.outbox.push(message);
    this.#keep();
    this.#say(message);
    return message;
  }

  /** Send what needs no repetition; returns whether it was possible. */
  tell(event) {
    return this.#send(event);
  }

  // What comes.

  #receive(event) {
    clearTimeout(this.#watch);
    if (Object.hasOwn(this.#handlers, event.type)) this.#handlers[event.type](event);
    this.listener.received(event);
    if (this.outbox.some(({ room }) => this.#joined.has(room))) this.#expect();
  }

  #handlers = {
    welcome: ({ nick, session }) => {
      this.#failures = 0;
      this.isWelcome = true;
      this.nick = nick;
      this.store.setItem("session", session);
      this.listener.changed("online");
      for (const room of this.rooms.keys()) this.join(room);
    },
    joined: ({ room }) => {
      if (!this.rooms.has(room)) this.rooms.set(room, {});
      this.#joined.add(room);
      this.#keep();
      // What the server had before the connection broke, it knows by its id.
      for (const message of this.outbox) if (message.room === room) this.#say(message);
    },
    left: ({ room }) => this.#forget(room),
    message: ({ room, log, seq, id }) => {
      this.rooms.set(room, { log, seq });
      this.#settle(id);
    },
    error: ({ id }) => this.#settle(id),
    nick: ({ nick }) => (this.nick = nick),
  };

  #settle(id) {
    const place = id ? this.outbox.findIndex((message) => message.id === id) : -1;
    if (place < 0) return;
    this.outbox.splice(place, 1);
    this.#keep();
  }

  #forget(room) {
    this.rooms.delete(room);
    this.#joined.delete(room);
    this.outbox = this.outbox.filter((message) => message.room !== room);
    this.#keep();
  }

  // What goes.

  #send(event) {
    if (!this.isOnline) return false;
    this.#socket.send(JSON.stringify(event));
    return true;
  }

  #say({ id, room, text }) {
    if (this.#joined.has(room) && this.#send({ type: "say", id, room, text })) this.#expect();
  }

  #keep() {
    this.store.setItem("outbox", JSON.stringify(this.outbox));
    this.store.setItem("rooms", JSON.stringify([...this.rooms.keys()]));
  }

  // The connection's end.

  /** Have the server say something in time, or take the connection for dead. */
  #expect() {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => this.#lose({ code: 1006, reason: "" }), PATIENCE);
  }

  #drop() {
    clearTimeout(this.#retry);
    clearTimeout(this.#watch);
    this.#joined.clear();
    this.isWelcome = false;
    const socket = this.#socket;
    this.#socket = null; // what it may still say is none of ours
    socket?.close();
  }

  #lose({ code, reason }) {
    this.#drop();
    if (code === REPLACED) return this.listener.changed("ended", { reason });
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#failures++);
    const delay = longest * (0.5 + Math.random() / 2); // so that not all come back at once
    this.#retry = setTimeout(() => this.open(), delay);
    this.listener.changed("waiting", { until: Date.now() + delay, reason });
  }
}

/** For pages from plain http and another host than this: there is no randomUUID there. */
function randomId() {
  return [...crypto.getRandomValues(new Uint32Array(4))].map((word) => word.toString(36)).join("-");
}
