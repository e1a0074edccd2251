// The node driver of PostgreSQL, so that Prisma's adapters can read what the schema engine asks for.
import { createRequire } from 'node:module';

const NAME_TYPE = 19;
const TEXT_TYPE = 25;

// The adapters cannot read PostgreSQL's type `name`, in which the catalog's answers come; as text they are the same.
const Result = createRequire(import.meta.url)('pg/lib/result.js');
const addFields = Result.prototype.addFields;
Result.prototype.addFields = function (fields) {
  for (const field of fields) {
    if (field.dataTypeID === NAME_TYPE) field.dataTypeID = TEXT_TYPE;
  }
  return addFields.call(this, fields);
};

const url = new URL(process.env.DATABASE_URL ?? 'postgresql://localhost');
const schema = url.searchParams.get('schema') ?? 'public';

const path = `"${schema.replaceAll('"', '""')}"`;

// The native engine sets the search path to the URL's schema; the adapters leave that to the connection.
export const connection = {
  connectionString: url.href,
  application_name: 'prisma-migrate',
  options: `-c search_path=${path.replace(/[\\ ]/g, '\\$&')}`,
};
export const where = { schema };
