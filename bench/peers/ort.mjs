// ONNX Runtime as a contender: node ort.mjs FOLDER THREADS [MODEL]
//
// FOLDER holds the .onnx files that pytorch.py exported. Says hello in one line of
// JSON, then answers lines "CONTENDER ITEM SECONDS" with {"ms": ...} or {"error": ...}.
// The package onnxruntime-node is looked for in the working directory.
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { createRequire } from 'node:module';

const require = createRequire(path.join(process.cwd(), 'package.json'));
const ort = require('onnxruntime-node');
const [folder, threads, ...models] = process.argv.slice(2);
const say = (x) => console.log(JSON.stringify(x));
const file = (item) => path.join(folder, item.replaceAll('/', '-'));
const options = {
  graphOptimizationLevel: 'all', intraOpNumThreads: Number(threads), interOpNumThreads: 1,
  executionMode: 'sequential', executionProviders: ['cpu'],
};

async function open(item, more) {
  const session = await ort.InferenceSession.create(file(item) + '.onnx', { ...options, ...more });
  const feeds = {};
  for (const { name, shape } of session.inputMetadata) {
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
    if (fs.existsSync(file(item) + '.input')) new Uint8Array(data.buffer).set(fs.readFileSync(file(item) + '.input'));
    else data.forEach((_, i) => { data[i] = Math.random(); });
    feeds[name] = new ort.Tensor('float32', data, shape);
  }
  return { session, run: () => session.run(feeds) };
}

const median = (x) => x.sort((a, b) => a - b)[x.length >> 1];

// timed returns the times of at least three runs, in ms, after some that do not count.
async function timed(run, warm, most, seconds) {
  for (let i = 0; i < warm; i++) await run();
  const times = [];
  const end = performance.now() + seconds * 1e3;
  while (times.length < 3 || (times.length < most && performance.now() < end)) {
    const start = performance.now();
    await run();
    times.push(performance.now() - start);
  }
  return times;
}

// kernels returns the median time of the nodes of a small model, in ms, from the
// runtime's own profile: without JavaScript's part, and without the change of layout
// around a convolution.
async function kernels(item, seconds) {
  const { session, run } = await open(item, { enableProfiling: true, profileFilePrefix: file(item) });
  const warm = 5, most = 1000;
  const n = (await timed(run, warm, most, seconds)).length;
  session.endProfiling();
  await session.release();
  const prefix = path.basename(file(item)) + '_';
  const [profile] = fs.readdirSync(folder).filter((f) => f.startsWith(prefix) && f.endsWith('.json'));
  const events = JSON.parse(fs.readFileSync(path.join(folder, profile)));
  fs.unlinkSync(path.join(folder, profile));
  const runs = [];
  // In whole µs, a run often begins together with its first node.
  const isRun = (e) => e.name === 'SequentialExecutor::Execute';
  for (const e of events.sort((a, b) => a.ts - b.ts || isRun(b) - isRun(a))) {
    if (isRun(e)) runs.push({ end: e.ts + e.dur, sum: 0 });
    const at = runs.at(-1);
    if (e.name?.endsWith('_kernel_time') && at && e.ts <= at.end && !e.args.op_name.startsWith('Reorder')) at.sum += e.dur;
  }
  if (runs.length !== warm + n) throw new Error(`the profile has ${runs.length} runs, not ${warm + n}`);
  if (runs.some((r) => r.sum === 0)) throw new Error('the profile has runs without a node');
  return median(runs.slice(warm).map((r) => r.sum)) / 1e3;
}

const opened = {};
const logits = {};
for (const item of models) {
  opened[item] = await open(item);
  const out = await opened[item].run();
  logits['onnxruntime'] = Array.from(out[opened[item].session.outputNames[0]].data);
}
say({ versions: { onnxruntime: require('onnxruntime-node/package.json').version }, logits });
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [, item, seconds] = line.split(' ');
  try {
    say({ ms: opened[item] ? median(await timed(opened[item].run, 1, Infinity, Number(seconds))) : await kernels(item, Number(seconds)) });
  } catch (e) {
    say({ error: e.message });
  }
}
