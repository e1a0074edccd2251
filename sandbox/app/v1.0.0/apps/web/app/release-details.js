'use client';

import { release } from '../release.mjs';

export default function ReleaseDetails() {
  return <p data-details={release}>This is {release}.</p>;
}
