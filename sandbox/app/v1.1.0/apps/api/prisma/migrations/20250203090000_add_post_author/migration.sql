-- AlterTable
ALTER TABLE "posts" ADD COLUMN "author" TEXT;
