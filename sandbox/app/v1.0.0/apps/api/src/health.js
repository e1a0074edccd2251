'use strict';

const pool = require('./database');
const release = require('./release');

// The columns that every page needs: a schema without them cannot serve anybody.
const QUESTION = 'SELECT id, title, body FROM posts LIMIT 1';

async function health(request, response) {
  try {
    await pool.query(QUESTION);
    response.json({ status: 'ok', database: 'connected', version: release });
  } catch (error) {
    response.status(503).json({ status: 'error', database: 'disconnected', version: release, error: error.message });
  }
}

module.exports = health;
