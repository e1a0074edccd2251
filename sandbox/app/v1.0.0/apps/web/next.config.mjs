import { release } from './release.mjs';

/** @type {import('next').NextConfig} */
const config = {
  output: 'standalone',
  outputFileTracingRoot: import.meta.dirname,
  turbopack: { root: import.meta.dirname },
  generateBuildId: async () => release,
  poweredByHeader: false,
};

export default config;
