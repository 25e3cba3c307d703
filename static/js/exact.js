// JSON to the last digit: a browser's own numbers have 53 bits, those of events and schemas have as many as they like.

/** What `text` says, to be compared; a number that this browser would round is kept as it is written. */
export function parse(text) {
  return JSON.parse(text, (_key, value, context) => (typeof value === "number" && JSON.rawJSON && context.source !== String(value) ? JSON.rawJSON(context.source) : value));
}

/** Whether `value` has members to compare. */
export const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && !JSON.isRawJSON?.(value);

/** The JSON of `fields` with `name` beside them, whose value is the JSON `text` as it stands. SyntaxError for what is none. */
export function beside(fields, name, text) {
  JSON.parse(text);
  return `${JSON.stringify(fields).slice(0, -1)},${JSON.stringify(name)}:${text}}`;
}
