// Validates an AsyncAPI document with the official parser; prints what it refuses and exits 1.
const { Parser } = require("@asyncapi/parser");
const { readFileSync } = require("node:fs");

async function main(path) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf8"));
  const errors = diagnostics.filter((one) => one.severity === 0);
  for (const one of errors) console.error(`${path}: /${one.path.join("/")}: ${one.message}`);
  if (!document || errors.length > 0) process.exit(1);
  const { length: channels } = document.channels().all();
  const { length: messages } = document.messages().all();
  console.log(`${path}: valid AsyncAPI ${document.version()}, ${channels} channels, ${messages} messages`);
}

main(process.argv[2]);
