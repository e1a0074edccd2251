// Prisma's CLI with the schema engine that its package carries as WebAssembly: no native engine is downloaded.
import { PrismaPg } from '@prisma/adapter-pg';
import { defineConfig } from 'prisma/config';
import { connection, where } from './pg.mjs';

if (!process.env.PRISMA_LINGERS) {
  // A command that is done stays for 10 s, for the timer of its wait for the lock and for its pool, and holds Prisma's
  // lock. Nothing waits for these timers here. While the engine really waits, its connection keeps the process alive.
  const startTimer = globalThis.setTimeout;
  globalThis.setTimeout = (work, delay, ...rest) => {
    const timer = startTimer(work, delay, ...rest);
    return delay === 10_000 ? timer.unref() : timer;
  };
  connection.allowExitOnIdle = true;
}

export default defineConfig({
  schema: 'schema.prisma',
  migrations: { path: process.env.MIGRATIONS ?? 'migrations' },
  engine: 'js',
  experimental: { adapter: true },
  adapter: async () => new PrismaPg(connection, where),
});
