#!/usr/bin/env node
// Writes tests/vectors/cid.json: what the official UnixFS importer says the CIDs of some contents are.
//
//   node scripts/cid_vectors.mjs > tests/vectors/cid.json
//
// Contents are not committed but made on both sides, by the rule in `content`: the bytes of SHA-256(seed ‖ uint64 0),
// SHA-256(seed ‖ uint64 1), … up to `period` bytes, repeated up to `size`. A period that is no divisor of the chunk
// size makes every chunk another one, so a gigabyte takes a second.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { importer } from 'ipfs-unixfs-importer';
import { fixedSize } from 'ipfs-unixfs-importer/chunker';
import { balanced } from 'ipfs-unixfs-importer/layout';

const MIB = 1 << 20;
const SEED = 'chainfl cid vectors';
const packageJson = new URL('../node_modules/ipfs-unixfs-importer/package.json', import.meta.url);

function pattern (period) {
  const blocks = [];
  for (let i = 0; i * 32 < period; i++) {
    const counter = Buffer.alloc(8);
    counter.writeBigUInt64BE(BigInt(i));
    blocks.push(createHash('sha256').update(SEED).update(counter).digest());
  }
  return Buffer.concat(blocks).subarray(0, period);
}

function * content (size, period) {
  const bytes = pattern(period);
  for (let at = 0; at < size; at += period) {
    yield bytes.subarray(0, Math.min(period, size - at));
  }
}

// Keeps no block: only their CIDs matter, and one content is larger than a gigabyte.
const nowhere = { put: async (cid) => cid };

async function cidOf (size, period, layout) {
  const options = { profile: 'unixfs-v1-2025' };
  if (layout !== undefined) {
    options.chunker = fixedSize({ chunkSize: layout.chunk_bytes });
    options.layout = balanced({ maxChildrenPerNode: layout.max_links });
  }
  let entry;
  for await (entry of importer([{ content: content(size, period) }], nowhere, options));
  return entry.cid.toString();
}

// Under the profile itself.
const sizes = [
  [0, 1], [1, 1], [MIB - 1, 999_983], [MIB, 999_983], [MIB + 1, 999_983], [2 * MIB, 999_983],
  [7 * MIB + 12_345, 999_983], [100 * MIB, 999_983], [1024 * MIB + 1, MIB + 1],
];
// Small chunks and few links, for trees of several levels: the rule is the same, only the numbers differ.
const layouts = [
  { chunk_bytes: 4, max_links: 3, sizes: [0, 3, 4, 5, 12, 13, 16, 36, 37, 40, 48, 108, 109, 121, 324, 325, 1000] },
  { chunk_bytes: 1, max_links: 2, sizes: [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 255, 256, 257] },
  { chunk_bytes: 128, max_links: 174, sizes: [128, 129, 22_272, 22_273, 22_400, 100_000] },
];

const vectors = [];
for (const [size, period] of sizes) {
  vectors.push({ size, period, cid: await cidOf(size, period) });
}
for (const { sizes, ...layout } of layouts) {
  for (const size of sizes) {
    vectors.push({ size, period: 251, layout, cid: await cidOf(size, 251, layout) });
  }
}
const made_with = { 'ipfs-unixfs-importer': JSON.parse(readFileSync(packageJson)).version, profile: 'unixfs-v1-2025' };
const lines = vectors.map((vector) => '    ' + JSON.stringify(vector)).join(',\n');
process.stdout.write(`{
  "made_with": ${JSON.stringify(made_with)},
  "content": {"seed": ${JSON.stringify(SEED)}, "rule": "sha256(seed || uint64 be i), i = 0, 1, ...; cut to period; repeated to size"},
  "vectors": [
${lines}
  ]
}
`);
