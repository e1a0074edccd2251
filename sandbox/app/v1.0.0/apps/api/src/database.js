'use strict';

const { Pool } = require('pg');

const pool = new Pool({
  connectionString: process.env.DATABASE_URL,
  application_name: 'connectin-api',
  max: 10,
  connectionTimeoutMillis: 2000,
  query_timeout: 5000,
});

// An idle connection that the server closes must not end the process; the next query opens a new one.
pool.on('error', (error) => {
  console.error(JSON.stringify({ level: 'error', message: `database connection lost: ${error.message}` }));
});

module.exports = pool;
