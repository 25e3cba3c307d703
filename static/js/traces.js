// The list (of traces, of tokens) is the server's; only the shell is live here.
import { live } from "./shell.js";

live([]);
