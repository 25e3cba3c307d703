// A stream's history is the server's; only the shell and the replay are live here.
import { armReplay } from "./replay.js";
import { live } from "./shell.js";

live([]);
armReplay(document);
