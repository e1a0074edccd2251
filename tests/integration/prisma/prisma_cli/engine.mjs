// The schema engine of Prisma 7.9, called as its CLI calls it: node engine.mjs COMMAND FOLDER [MIGRATION].
// Writes the engine's answer as JSON. A failure ends with 1 and the engine's text after its code.
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { bindMigrationAwareSqlAdapterFactory } from '@prisma/driver-adapter-utils';
import * as glue from '@prisma/schema-engine-wasm/schema_engine_bg';
import { PrismaPg } from 'adapter-pg-7';
import { connection, where } from './pg.mjs';

const GLUE = '@prisma/schema-engine-wasm/schema_engine_bg';
const program = createRequire(import.meta.url).resolve(GLUE).replace(/\.js$/, '.wasm');
const { instance } = await WebAssembly.instantiate(readFileSync(program), { './schema_engine_bg.js': glue });
glue.__wbg_set_wasm(instance.exports);
instance.exports.__wbindgen_start();

const [command, baseDir, migrationName] = process.argv.slice(2);
const filters = { externalTables: [], externalEnums: [] };
const migrationsList = {
  baseDir,
  lockfile: { path: 'migration_lock.toml', content: readFileSync(path.join(baseDir, 'migration_lock.toml'), 'utf-8') },
  shadowDbInitScript: '',
  migrationDirectories: readdirSync(baseDir, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort((one, other) => one.localeCompare(other))
    .map((name) => {
      const value = readFileSync(path.join(baseDir, name, 'migration.sql'), 'utf-8');
      return { path: name, migrationFile: { path: 'migration.sql', content: { tag: 'ok', value } } };
    }),
};

const adapter = bindMigrationAwareSqlAdapterFactory(new PrismaPg(connection, where));
const datamodels = [['schema.prisma', 'datasource db {\n  provider = "postgresql"\n}\n']];
const engine = await glue.SchemaEngine.new({ datamodels }, () => {}, adapter);
const commands = {
  deploy: () => engine.applyMigrations({ migrationsList, filters }),
  status: () => engine.diagnoseMigrationHistory({ migrationsList, filters, optInToShadowDatabase: false }),
  applied: () => engine.markMigrationApplied({ migrationsList, migrationName }),
  'rolled-back': () => engine.markMigrationRolledBack({ migrationName }),
};
try {
  console.log(JSON.stringify(await commands[command]()));
} catch (error) {
  console.log(error.code ?? '', error.message);
  process.exitCode = 1;
}
// As the native engine, it does not stay for its pool.
process.exit();
