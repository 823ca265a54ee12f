// The npm packages `ollama` and `openai`, unchanged, with Arriero as their server.
//
// usage: node clients.mjs URL FOLDER_WITH_NODE_MODULES PNG_FILE
// Prints one JSON line a check: {"name": …, "error": null or text}.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { strict as assert } from 'node:assert';

const [url, folder, picture] = process.argv.slice(2);
const require = createRequire(folder + '/');
const { Ollama } = require('ollama');
const OpenAI = require('openai');

// The body of the last request, to see what really goes over the wire.
let sent = '';
const recording = (input, init) => {
  sent = typeof init?.body === 'string' ? init.body : '';
  return fetch(input, init);
};

const ollama = new Ollama({ host: url, fetch: recording });
const openai = new OpenAI({ baseURL: url + '/v1', apiKey: 'ollama', maxRetries: 0, fetch: recording });
const image = readFileSync(picture).toString('base64');
const options = { num_predict: 8, temperature: 0, seed: 7 };
const messages = [{ role: 'user', content: 'Hello' }];
const notFound = /model ['"]nope['"] not found/; // the quotes depend on the version of Ollama
const all = ['both:1', 'tiny:1', 'tiny:2'];

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

const checks = {
  'ollama-js: chat': async () => {
    const answer = await ollama.chat({ model: 'tiny:1', messages, options });
    assert.equal(answer.done, true);
    assert.equal(answer.eval_count, 8);
  },
  'ollama-js: chat, streamed, model behind the messages': async () => {
    const parts = await collect(await ollama.chat({ messages, options, model: 'tiny:2', stream: true }));
    assert.ok(sent.indexOf('"model"') > sent.indexOf('"messages"'));
    assert.ok(parts.length > 4, `only ${parts.length} parts`);
    assert.equal(parts.at(-1).done, true);
  },
  'ollama-js: generate with an image of 300 kB before the model': async () => {
    const answer = await ollama.generate({ prompt: 'What is this?', images: [image], options, model: 'tiny:2' });
    assert.ok(sent.indexOf('"model"') > 290_000);
    assert.equal(answer.done, true);
  },
  'ollama-js: embed': async () => {
    const answer = await ollama.embed({ model: 'tiny:1', input: ['one', 'two'] });
    assert.deepEqual(answer.embeddings.map((vector) => vector.length), [64, 64]);
  },
  'ollama-js: list, show, ps': async () => {
    assert.deepEqual((await ollama.list()).models.map((model) => model.name).sort(), all);
    assert.equal((await ollama.show({ model: 'tiny:2' })).details.family, 'llama');
    assert.ok(Array.isArray((await ollama.ps()).models));
  },
  'ollama-js: unknown model': async () => {
    await assert.rejects(ollama.chat({ model: 'nope', messages }), (error) => {
      assert.equal(error.status_code, 404);
      assert.match(error.error, notFound);
      return true;
    });
  },
  'ollama-js: abort of a stream': async () => {
    const stream = await ollama.generate({
      model: 'tiny:1', prompt: 'Go on', stream: true, options: { ...options, num_predict: 20000 },
    });
    let seen = 0;
    await assert.rejects(async () => {
      for await (const part of stream) {
        assert.equal(part.done, false);
        if (++seen === 3) ollama.abort();
      }
    }, { name: 'AbortError' });
  },
  'openai-js: chat': async () => {
    const answer = await openai.chat.completions.create({ model: 'tiny:1', messages, max_tokens: 8 });
    assert.equal(answer.usage.completion_tokens, 8);
  },
  'openai-js: chat, streamed, with usage': async () => {
    const parts = await collect(await openai.chat.completions.create({
      model: 'tiny:2', messages, max_tokens: 8, stream: true, stream_options: { include_usage: true },
    }));
    assert.ok(parts.length > 4, `only ${parts.length} parts`);
    assert.equal(parts.at(-1).usage.completion_tokens, 8);
  },
  'openai-js: chat with an image of 300 kB before the model': async () => {
    const content = [
      { type: 'text', text: 'What is this?' },
      { type: 'image_url', image_url: { url: 'data:image/png;base64,' + image } },
    ];
    const answer = await openai.chat.completions.create({
      messages: [{ role: 'user', content }], max_tokens: 8, model: 'tiny:2',
    });
    assert.ok(sent.indexOf('"model"') > 290_000);
    assert.equal(answer.model, 'tiny:2');
  },
  'openai-js: models': async () => {
    assert.deepEqual((await collect(await openai.models.list())).map((model) => model.id).sort(), all);
    assert.equal((await openai.models.retrieve('tiny:1')).id, 'tiny:1');
  },
  'openai-js: embeddings': async () => {
    const answer = await openai.embeddings.create({ model: 'tiny:1', input: 'one', encoding_format: 'float' });
    assert.equal(answer.data[0].embedding.length, 64);
  },
  'openai-js: unknown model': async () => {
    await assert.rejects(openai.chat.completions.create({ model: 'nope', messages }), (error) => {
      assert.equal(error.status, 404);
      assert.match(error.message, notFound);
      return true;
    });
  },
  "fetch: a string body, labelled text/plain as in a browser": async () => {
    const answer = await fetch(url + '/api/chat', {
      method: 'POST', body: JSON.stringify({ messages, options, stream: false, model: 'tiny:2' }),
    });
    assert.equal(answer.status, 200);
    assert.equal((await answer.json()).model, 'tiny:2');
  },
};

for (const [name, run] of Object.entries(checks)) {
  let error = null;
  try {
    await run();
  } catch (problem) {
    error = String(problem?.stack ?? problem);
  }
  console.log(JSON.stringify({ name, error }));
}
process.exit(0); // without waiting for idle connections
