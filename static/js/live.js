// The live protocol of docs/live-protocol.md: snapshot, deltas, acknowledgement, resume.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15000;
const LATE = 4000; // Milliseconds without a frame until the page says that it is old.
const DEAD = 12000; // ... until the socket is given up and opened anew.

/** RFC 7396. */
export function merge(target, patch) {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const result = target !== null && typeof target === "object" && !Array.isArray(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = merge(result[key], value);
  }
  return result;
}

export class Live {
  /**
   * `topics`: the parts wanted. `onState(state, at)`: after every frame.
   * `onLink(word, age)`: "start", "on", "late" or "off", and the milliseconds since the last frame, or since the start.
   */
  constructor({ topics, onState, onLink }) {
    this.topics = topics;
    this.onState = onState;
    this.onLink = onLink;
    this.state = null;
    this.epoch = "";
    this.seq = 0;
    this.heard = 0;
    this.wait = FIRST_WAIT;
    this.over = false;
    this.timer = 0;
    this.born = performance.now();
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.retry(); });
    setInterval(() => this.look(), 500);
    this.open();
  }

  open() {
    clearTimeout(this.timer);
    const query = new URLSearchParams({ topics: this.topics.join(",") });
    if (this.state) {
      query.set("epoch", this.epoch);
      query.set("seq", this.seq);
    }
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/ws/live?${query}`);
    this.socket = socket;
    this.opened = performance.now();
    socket.onmessage = (event) => { if (socket === this.socket) this.take(JSON.parse(event.data)); };
    socket.onclose = (event) => { if (socket === this.socket) this.closed(event.code); };
  }

  take(frame) {
    if (frame.type === "snapshot") {
      this.state = frame.state;
    } else if (frame.type === "delta" && this.state && frame.epoch === this.epoch && frame.seq === this.seq + 1) {
      this.state = merge(this.state, frame.patch);
    } else {
      this.socket.send(JSON.stringify({ type: "subscribe", topics: this.topics }));
      return;
    }
    this.epoch = frame.epoch;
    this.seq = frame.seq;
    this.heard = performance.now();
    this.wait = FIRST_WAIT;
    this.socket.send(JSON.stringify({ type: "ack", seq: frame.seq }));
    this.onState(this.state, frame.at);
    this.look();
  }

  closed(code) {
    this.socket = null;
    this.look();
    if (code === 4401) {
      // Logged out, or the role is gone: the page itself says which.
      this.over = true;
      location.reload();
      return;
    }
    if (code === 4400 || code === 4404 || code === 4409) this.state = null; // We disagree on the past: begin anew.
    this.timer = setTimeout(() => this.open(), this.wait * (0.5 + Math.random() / 2));
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
  }

  retry() {
    if (!this.socket && !this.over) this.open();
  }

  look() {
    const now = performance.now();
    const age = now - (this.heard || this.born);
    if (this.socket && now - Math.max(this.heard, this.opened) > DEAD) {
      const silent = this.socket;
      this.socket = null;
      silent.close();
      this.closed(1006);
      return;
    }
    this.onLink(!this.heard ? "start" : !this.socket ? "off" : age > LATE ? "late" : "on", age);
  }
}
