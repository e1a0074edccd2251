// Prisma Migrate with the schema engine that its npm package carries as WebAssembly, over the JavaScript driver:
// no native engine has to be downloaded.
import { createRequire } from 'node:module';
import { PrismaPg } from '@prisma/adapter-pg';
import { defineConfig } from 'prisma/config';

const NAME_TYPE = 19;
const TEXT_TYPE = 25;

// The adapter cannot read PostgreSQL's type `name`, in which the catalog's answers come; as text they are the same.
const Result = createRequire(import.meta.url)('pg/lib/result.js');
const addFields = Result.prototype.addFields;
Result.prototype.addFields = function (fields: { dataTypeID: number }[]) {
  for (const field of fields) {
    if (field.dataTypeID === NAME_TYPE) field.dataTypeID = TEXT_TYPE;
  }
  return addFields.call(this, fields);
};

// The engine leaves the timer of its wait for the lock running, 10 s, and the process would stay for it. While it
// really waits, the connection keeps the process alive.
const startTimer = globalThis.setTimeout;
globalThis.setTimeout = ((work: () => void, delay?: number, ...rest: unknown[]) => {
  const timer = startTimer(work, delay, ...rest);
  return delay === 10_000 ? timer.unref() : timer;
}) as typeof setTimeout;

export default defineConfig({
  schema: 'prisma/schema.prisma',
  engine: 'js',
  experimental: { adapter: true },
  // The pool's own idle time, 10 s, would hold Prisma's lock for as long after the work is done.
  adapter: async () =>
    new PrismaPg({
      connectionString: process.env.DATABASE_URL,
      application_name: 'prisma-migrate',
      idleTimeoutMillis: 300,
      allowExitOnIdle: true,
    }),
});
