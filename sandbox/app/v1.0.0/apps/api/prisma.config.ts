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

export default defineConfig({
  schema: 'prisma/schema.prisma',
  engine: 'js',
  experimental: { adapter: true },
  // Without an idle time of its own the pool would hold Prisma's lock for 10 s after the work is done.
  adapter: async () =>
    new PrismaPg({
      connectionString: process.env.DATABASE_URL,
      application_name: 'prisma-migrate',
      idleTimeoutMillis: 100,
      allowExitOnIdle: true,
    }),
});
