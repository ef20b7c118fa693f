// Node and any other language with an HTTP client: `usage-worker serve` takes CloudEvents and our own JSON.
//
//     USAGE_IDS=uuid5 usage-worker serve     # workers, too, take ids that are not UUIDs
//     USAGE_URL=http://localhost:8889 USAGE_API_KEY=… node publish.mjs 42
//
// Where no answer arrives, send the same body again: by its id and time it is counted once.

const [user] = process.argv.slice(2);
const { USAGE_URL: url, USAGE_API_KEY: key } = process.env;
const answer = await fetch(`${url}/api/v1/events`, {
  method: "POST",
  headers: { "content-type": "application/cloudevents+json", ...(key && { authorization: `Bearer ${key}` }) },
  body: JSON.stringify({
    specversion: "1.0",
    id: "chatcmpl-123",
    source: "my-app",
    type: "usage",
    subject: user,
    time: new Date().toISOString(),
    data: { agent_id: "support-bot", input_tokens: 812, output_tokens: 160, cost_usd: "0.0031" },
  }),
});
console.log(answer.status, await answer.text());
