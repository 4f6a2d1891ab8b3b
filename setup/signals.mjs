// Preloaded by every recipe: one Ctrl-C is one SIGINT. The terminal signals the whole process
// group, and `bun run` and `npm run` pass the signal on as well, so that a recipe would see two
// within milliseconds and take the second for "stop at once".

import { EventEmitter } from "node:events";

const quietMilliseconds = 250;
const listeners = new EventEmitter();
const { on, off } = process;
let last = Number.NEGATIVE_INFINITY;

function receive() {
  const now = performance.now();
  const isEcho = now - last < quietMilliseconds;
  last = now;
  if (!isEcho) listeners.emit("SIGINT", "SIGINT", 2);
}

for (const name of ["on", "addListener", "once", "prependListener", "prependOnceListener"]) {
  const original = process[name].bind(process);
  process[name] = (event, listener) => {
    if (event !== "SIGINT") return original(event, listener);
    if (listeners.listenerCount("SIGINT") === 0) on.call(process, "SIGINT", receive);
    listeners[name]("SIGINT", listener);
    return process;
  };
}

for (const name of ["off", "removeListener", "removeAllListeners"]) {
  const original = process[name].bind(process);
  process[name] = (event, ...rest) => {
    if (event !== "SIGINT") return original(event, ...rest);
    listeners[name]("SIGINT", ...rest);
    // Without a listener the signal must end the process again.
    if (listeners.listenerCount("SIGINT") === 0) off.call(process, "SIGINT", receive);
    return process;
  };
}
