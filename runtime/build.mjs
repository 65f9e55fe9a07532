// Writes vega.js, and the licences of everything in it, where the package has them.
import {build} from 'esbuild';
import {existsSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';

const out = '../src/poise/reports/page/';
const made = await build({
  entryPoints: ['entry.js'],
  outfile: `${out}vega.js`,
  alias: {vega: './vega.js'},
  bundle: true,
  minify: true,
  format: 'iife',
  target: 'es2020',
  legalComments: 'none',
  charset: 'ascii',
  metafile: true,
});
const parts = Object.values(made.metafile.outputs)[0].inputs;
const folders = new Set(
  Object.keys(parts).map((path) => path.match(/^node_modules\/(?:@[^/]+\/)?[^/]+/)?.[0]).filter(Boolean));
for (const inner of ['delaunator', 'robust-predicates']) folders.add(`node_modules/${inner}`); // inside d3-delaunay's file
const licences = [...folders].sort().map((folder) => {
  const {name, version, license} = JSON.parse(readFileSync(`${folder}/package.json`));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} has no licence text`);
  return {title: `${name} ${version} (${license})`, text: readFileSync(`${folder}/${file}`, 'utf8').trim()};
});
const texts = new Map();
for (const {title, text} of licences) texts.set(text, [...(texts.get(text) ?? []), title]);
writeFileSync(`${out}vega.LICENSES.txt`,
  'vega.js beside this file is made of the following packages, each under the licence below its name.\n' +
  [...texts].map(([text, titles]) => `\n${'-'.repeat(80)}\n${titles.join('\n')}\n\n${text}\n`).join(''));
