/*
 * Reads SQL texts, each behind a NUL, and says of each in a line whether all its statements are of the grammar of a
 * server, `MySQL` or `Oracle`, that the argument names.
 */

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.antlr.v4.runtime.BaseErrorListener;
import org.antlr.v4.runtime.CharStream;
import org.antlr.v4.runtime.CharStreams;
import org.antlr.v4.runtime.CommonTokenStream;
import org.antlr.v4.runtime.Lexer;
import org.antlr.v4.runtime.Parser;
import org.antlr.v4.runtime.RecognitionException;
import org.antlr.v4.runtime.Recognizer;
import org.antlr.v4.runtime.Token;
import org.antlr.v4.runtime.TokenStream;
import org.antlr.v4.runtime.atn.PredictionMode;

class Grammar extends BaseErrorListener {
  /** By their tokens, since most differ in their values only. */
  private static final Map<String, String> KNOWN = new HashMap<>();
  private static Class<? extends Lexer> lexers;
  private static Class<? extends Parser> parsers;
  private String error;

  public static void main(String[] arguments) throws IOException, ReflectiveOperationException {
    String classes = "org.apache.shardingsphere.sql.parser.autogen." + arguments[0] + "Statement";
    lexers = Class.forName(classes + "Lexer").asSubclass(Lexer.class);
    parsers = Class.forName(classes + "Parser").asSubclass(Parser.class);
    int semicolon = lexers.getField("SEMI_").getInt(null);
    int identifier = lexers.getField("IDENTIFIER_").getInt(null);
    String input = new String(System.in.readAllBytes(), StandardCharsets.UTF_8);
    for (String text : input.split("\0")) {
      String verdict = "ok";
      for (String statement : statements(text, semicolon)) {
        String key = keyOf(statement, identifier);
        if (!KNOWN.containsKey(key)) KNOWN.put(key, new Grammar().refusal(statement));
        if (!KNOWN.get(key).isEmpty()) verdict = KNOWN.get(key);
      }
      System.out.println(verdict.replaceAll("\\s+", " "));
    }
    System.out.println(KNOWN.size());
  }

  private static Lexer lexer(String text) throws ReflectiveOperationException {
    Lexer lexer = lexers.getConstructor(CharStream.class).newInstance(CharStreams.fromString(text));
    lexer.removeErrorListeners();
    return lexer;
  }

  private static List<Token> tokens(String text) throws ReflectiveOperationException {
    Lexer lexer = lexer(text);
    CommonTokenStream stream = new CommonTokenStream(lexer);
    stream.fill();
    return stream.getTokens();
  }

  /** A driver sends several in one message. */
  private static List<String> statements(String text, int semicolon) throws ReflectiveOperationException {
    List<String> found = new ArrayList<>();
    int from = 0;
    for (Token token : tokens(text)) {
      boolean end = token.getType() == Token.EOF;
      if (!end && token.getType() != semicolon) continue;
      String statement = text.substring(from, end ? text.length() : token.getStartIndex());
      if (!statement.isBlank()) found.add(statement);
      from = end ? text.length() : token.getStopIndex() + 1;
    }
    return found;
  }

  private static String keyOf(String statement, int identifier) throws ReflectiveOperationException {
    StringBuilder key = new StringBuilder();
    for (Token token : tokens(statement)) {
      boolean word = token.getType() == identifier;
      key.append(word ? token.getText() : token.getType()).append(' ');
    }
    return key.toString();
  }

  private String refusal(String statement) throws ReflectiveOperationException {
    Lexer lexer = lexer(statement);
    CommonTokenStream stream = new CommonTokenStream(lexer);
    Parser parser = parsers.getConstructor(TokenStream.class).newInstance(stream);
    parser.removeErrorListeners();
    lexer.addErrorListener(this);
    parser.addErrorListener(this);
    parser.getInterpreter().setPredictionMode(PredictionMode.SLL);
    parsers.getMethod("execute").invoke(parser);
    // The rule ends where a statement might: what follows is left.
    Token next = stream.LT(1);
    if (error == null && next.getType() != Token.EOF) error = "not expected: " + next.getText();
    return error == null ? "" : error;
  }

  @Override
  public void syntaxError(
      Recognizer<?, ?> by, Object at, int line, int column, String message, RecognitionException cause) {
    if (error == null) error = "line " + line + ", column " + column + ": " + message;
  }
}
