// The client of ws, on Node: the scenarios of scenarios.py, with the same results.
"use strict";

const WebSocket = require("ws");

const SIZES = [0, 1, 125, 126, 65535, 65536, 2 ** 20];
const PROTOCOLS = ["unheard.of", "chat.v2", "chat.v1"];

// An open connection, with the messages and the Close that come as promises.
async function connect(url, protocols = []) {
  const socket = new WebSocket(url, protocols);
  const unread = [];
  const readers = [];
  socket.on("message", (data, isBinary) => {
    const message = isBinary ? data : data.toString();
    readers.length ? readers.shift()(message) : unread.push(message);
  });
  const closed = new Promise((resolve) => {
    socket.on("close", (code, reason) => resolve([code, reason.toString()]));
  });
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  return {
    socket,
    closed,
    receive: () =>
      unread.length ? unread.shift() : new Promise((resolve) => readers.push(resolve)),
    close: (code, reason) => (socket.close(code, reason), closed),
  };
}

function isSame(left, right) {
  return typeof left === "string" ? left === right : Buffer.compare(left, right) === 0;
}

const scenarios = {
  async messages(url) {
    const connection = await connect(`${url}/echo`);
    const same = { text: [], binary: [] };
    for (const size of SIZES) {
      const text = "✓".repeat(Math.floor(size / 3)) + "x".repeat(size % 3);
      for (const [kind, message] of [["text", text], ["binary", Buffer.alloc(size, 0xfe)]]) {
        connection.socket.send(message);
        if (isSame(message, await connection.receive())) same[kind].push(size);
      }
    }
    await connection.close(1000, "");
    return same;
  },

  async client_ping(url) {
    const connection = await connect(`${url}/echo`);
    const pong = new Promise((resolve) => connection.socket.on("pong", resolve));
    connection.socket.ping("are you there?");
    if ((await pong).toString() !== "are you there?") throw new Error("wrong pong");
    connection.socket.send("after the ping");
    const answer = await connection.receive();
    await connection.close(1000, "");
    return answer;
  },

  async server_ping(url) {
    const connection = await connect(`${url}/ping`);
    connection.socket.send("ping me");
    const answer = await connection.receive();
    await connection.close(1000, "");
    return answer;
  },

  async client_close(url) {
    const connection = await connect(`${url}/closed`);
    await connection.close(4321, "bye ✓");
    return null;
  },

  async server_close(url) {
    const connection = await connect(`${url}/close`);
    connection.socket.send("close me");
    return connection.closed;
  },

  async subprotocol(url) {
    const connection = await connect(`${url}/echo`, PROTOCOLS);
    await connection.close(1000, "");
    return connection.socket.protocol;
  },
};

const [name, url] = process.argv.slice(2);
scenarios[name](url).then((result) => process.stdout.write(JSON.stringify(result)));
