// The server of ws, on Node.
"use strict";

const http = require("http");
const { WebSocketServer } = require("ws");

const server = http.createServer();
const sockets = new WebSocketServer({
  noServer: true,
  maxPayload: 2 ** 21,
  handleProtocols: (offered) => (offered.has("chat.v1") ? "chat.v1" : false),
});

server.on("upgrade", (request, socket, head) => {
  if (request.url === "/refused") {
    socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nConnection: close\r\n\r\nno entry\n");
    return;
  }
  sockets.handleUpgrade(request, socket, head, (ws) => {
    ws.on("message", (data, isBinary) => {
      if (request.url === "/close") ws.close(3001, "enough ✓");
      else if (request.url === "/ping") ws.ping("from the server");
      else ws.send(data, { binary: isBinary });
    });
    ws.on("pong", (data) => {
      if (data.toString() === "from the server") ws.send("ponged");
    });
    ws.on("close", (code, reason) => console.log(`CLOSED ${code} ${reason}`));
  });
});

server.listen(0, "127.0.0.1", () => {
  console.log(`READY ws://127.0.0.1:${server.address().port}`);
});
