// The list of traces is the server's; only the shell is live here.
import { live } from "./shell.js";

live([]);
