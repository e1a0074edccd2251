'use strict';

// The smoke test of a running stack: health, posts, the page. Exits non-zero and says what is wrong.
const api = process.env.API_URL || 'http://127.0.0.1:5007';
const web = process.env.WEB_URL || 'http://127.0.0.1:3111';

async function fetched(url) {
  const response = await fetch(url, { signal: AbortSignal.timeout(5000) });
  const text = await response.text();
  if (response.status !== 200) throw new Error(`${url} answered ${response.status}: ${text.slice(0, 200)}`);
  return text;
}

const checks = {
  'the API is healthy': async () => {
    const health = JSON.parse(await fetched(`${api}/health`));
    if (health.database !== 'connected') throw new Error(`database: ${health.database}`);
  },
  'posts are listed': async () => {
    const { posts } = JSON.parse(await fetched(`${api}/posts`));
    if (!Array.isArray(posts)) throw new Error('no list of posts');
  },
  'the page shows the posts': async () => {
    const page = await fetched(`${web}/`);
    if (!page.includes('data-posts=')) throw new Error('the page shows no posts');
  },
};

async function main() {
  let failed = 0;
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      console.log(`ok      ${name}`);
    } catch (error) {
      failed += 1;
      console.error(`FAILED  ${name}: ${error.message}`);
    }
  }
  process.exit(failed === 0 ? 0 : 1);
}

main();
