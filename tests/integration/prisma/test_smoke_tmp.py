import json
def test_it(stack):
    stack.apply("20260101_init", 'CREATE TABLE users (id int primary key, name text);', 'DROP TABLE users;')
    stack.apply("20260102_rename", 'ALTER TABLE users RENAME COLUMN name TO full_name;', 'ALTER TABLE users RENAME COLUMN full_name TO name;')
    stack.apply("20260103_react", 'CREATE TABLE reactions (id int primary key);', 'DROP TABLE reactions;')
    stack.sql("insert into reactions values (1),(2),(3)")
    r = stack.info(target_migrations=["20260101_init"])
    print(json.dumps(r, indent=1))
    r = stack.down("20260103_react", "20260102_rename", target="v1")
    print(json.dumps(r, indent=1))
    r = stack.down("20260103_react", "20260102_rename", target="v1", confirm_data_loss="v1", diff=True)
    print(json.dumps(r, indent=1))
    print(stack.state())
