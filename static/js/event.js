// One event: all is the server's. Of a long tree of causes and effects, the part around this one is what is seen.
import { live } from "./shell.js";

live([]);
const tree = document.getElementById("tree");
const here = tree.querySelector("[aria-current]");
if (here) tree.scrollTop = here.offsetTop - (tree.clientHeight - here.offsetHeight) / 2;
